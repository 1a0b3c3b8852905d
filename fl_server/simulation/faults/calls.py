"""The calls of the system that the code under test makes, led to the disks and the clock of a simulation."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from fl_client import parcels
from fl_server.simulation.faults.disk import Disk, Stream


class Clock(Protocol):
    """What time is taken from."""

    def now(self) -> float:
        """Return seconds that never go back."""

    def wall(self) -> float:
        """Return the Unix seconds of the machine that asks."""

    def sleep(self, seconds: float) -> None:
        """Let time go by."""


class Real(NamedTuple):
    """The calls as they are."""

    open: Callable[..., Any]
    os_open: Callable[..., int]
    write: Callable[..., int]
    fsync: Callable[[int], None]
    replace: Callable[..., None]
    unlink: Callable[..., None]
    utime: Callable[..., None]


REAL = Real(io.open, os.open, os.write, os.fsync, os.replace, os.unlink, os.utime)
WRITES = {"w": "w", "wb": "w", "a": "a", "ab": "a"}


@contextmanager
def interposed(disks: Sequence[Disk], clock: Clock) -> Iterator[None]:
    """Lead what writes below the disks' folders, and who asks for the time, to the simulation while this is open."""
    calls = Calls(disks)
    led: dict[Any, dict[str, Any]] = {
        io: {"open": calls.open},
        os: {
            "open": calls.os_open, "write": calls.write, "fsync": calls.fsync, "fdatasync": calls.fsync,
            "replace": calls.replace, "rename": calls.replace, "unlink": calls.unlink,
            "remove": calls.unlink, "utime": calls.utime,
        },
        parcels: {"ThreadPoolExecutor": Inline},
        time: {"time": clock.wall, "monotonic": clock.now, "sleep": clock.sleep},
    }  # fmt: skip
    before = [(module, name, getattr(module, name)) for module in led for name in led[module]]
    try:
        for module, names in led.items():
            for name, call in names.items():
                setattr(module, name, call)
        yield
    finally:
        for module, name, call in before:
            setattr(module, name, call)


class Inline:
    """A pool without threads: what it is given is done at once."""

    def __init__(self, threads: int) -> None:
        pass

    def __enter__(self) -> Inline:
        """Return the pool."""
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing behind."""
        return

    def submit(self, work: Callable[..., Any], *given: Any) -> Future[Any]:
        """Return what is done already."""
        future = Future[Any]()
        future.set_result(work(*given))
        return future


class Calls:
    """Each call as the system has it; below a disk's folder it passes through the disk first."""

    def __init__(self, disks: Sequence[Disk]) -> None:
        self._disks = {disk.folder.name: disk for disk in disks}
        self._root = f"{disks[0].folder.parent}{os.sep}"
        self._open: dict[int, str] = {}  # what each handle was opened of, the last time
        self._ticks = count(1)  # the order in which files were touched, in place of the time

    def _disk(self, path: Any) -> Disk | None:
        text = os.fspath(path) if not isinstance(path, int) else ""
        if not text.startswith(self._root):
            return None
        return self._disks.get(text[len(self._root) :].partition(os.sep)[0])

    def _of(self, handle: int) -> tuple[Disk | None, str]:
        path = self._open.get(handle, "")
        return self._disk(path), path

    def open(
        self, path: Any, mode: str = "r", buffering: int = -1, *others: Any, **more: Any
    ) -> Any:
        """Open a file as ``io.open`` does."""
        disk, name = self._disk(path) if mode in WRITES else None, str(path)
        if disk is None:
            stream = REAL.open(path, mode, buffering, *others, **more)
            self._open[stream.fileno()] = name
            return stream
        raw = Stream(disk, name, WRITES[mode])
        self._open[raw.fileno()] = name
        self._touch(name)
        if buffering == 0:
            return raw
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, "utf-8")

    def os_open(self, path: Any, flags: int, *others: Any, **more: Any) -> int:
        """Open a file as ``os.open`` does."""
        disk = self._disk(path) if flags & os.O_CREAT else None
        if disk is not None:
            disk.operation(writes=True)
        new = disk is not None and not os.path.lexists(path)
        handle = REAL.os_open(path, flags, *others, **more)
        self._open[handle] = str(path)
        if disk is not None and new:
            disk.created(str(path))
        return handle

    def write(self, handle: int, content: bytes) -> int:
        """Write to a file that ``os_open`` opened."""
        disk, _ = self._of(handle)
        if disk is not None:
            disk.operation(writes=True)
        return REAL.write(handle, content)

    def fsync(self, handle: int) -> None:
        """Make a file, or the names in a folder, durable."""
        disk, path = self._of(handle)
        if disk is None:
            REAL.fsync(handle)
        else:
            disk.operation()
            disk.synced(path)

    def replace(self, source: Any, target: Any) -> None:
        """Put a file in another's place."""
        if disk := self._disk(target):
            disk.operation()
            if os.path.lexists(source):
                disk.renamed(str(source), str(target))
        REAL.replace(source, target)

    def unlink(self, path: Any, *, dir_fd: int | None = None) -> None:
        """Take a file away; ``shutil.rmtree`` names it in a folder that it has open."""
        place = path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path
        disk = self._disk(place)
        if disk is not None and os.path.lexists(place):
            disk.operation()
            disk.removed(str(place))
        REAL.unlink(path, dir_fd=dir_fd)

    def utime(self, path: Any, *_: Any, **__: Any) -> None:
        """Make a file the newest."""
        self._touch(path)

    def _touch(self, path: Any) -> None:
        at = next(self._ticks) * 1_000_000_000
        REAL.utime(path, ns=(at, at))
