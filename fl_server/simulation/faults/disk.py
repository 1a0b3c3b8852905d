"""A disk that dies, in a folder of real files: what was not made durable may be lost, in part, when the power goes.

The code under test writes as it always does; while ``interposed`` is open, its calls of the system pass here first. A
file is as it was at its last fsync, or has any beginning of what was written since. The names in a folder change in
order, so a power cut takes back the latest changes since the last fsync of the folder. Folders themselves stay.
"""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

REAL_UNLINK, REAL_UTIME = os.unlink, os.utime
Names = list[tuple[str, int, int]]  # what a name stood for before and after, 0 for nothing


class Killed(BaseException):
    """The process that called is no more; nothing may catch this but the simulation."""


class Blow(NamedTuple):
    """What happens at one operation: its process is killed, the power goes, or the disk is full for a while."""

    kind: str
    lasts: int = 0


class Disk:
    """One machine's disk. ``blows`` gives by the number of an operation what happens there."""

    def __init__(self, root: Path, draw: Random, blows: dict[int, Blow]) -> None:
        root.mkdir(parents=True)
        self.folder, self._draw, self.blows = root, draw, blows
        self.operations, self.fired = 0, list[str]()
        self.dead = ""  # how the process that wrote last was killed, until it is started again
        self._full = 0
        self._durable: dict[int, bytes] = {}
        self._gone: dict[int, bytes] = {}  # of files whose name may come back
        self._changes: dict[str, list[Names]] = {}

    def operation(self, writes: bool = False) -> None:
        """Count an operation before it is done; raises ``Killed``, and ``OSError`` where the disk is full."""
        if self.dead:
            raise Killed
        self.operations += 1
        blow = self.blows.pop(self.operations, None)
        if blow is not None and blow.kind == "full":
            self._full = blow.lasts
            self.fired.append("full")
        elif blow is not None:
            self.die(blow.kind)
        if writes and self._full:
            self._full -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def die(self, kind: str) -> None:
        """Kill whoever writes; raises ``Killed``."""
        self.dead = kind
        self.fired.append(kind)
        raise Killed

    def revive(self) -> None:
        """Let the next process write; where the power went, what was not durable is torn first."""
        if self.dead == "power":
            self._tear()
        self.dead, self._full = "", 0

    def synced(self, path: str) -> None:
        """Note that a file's content, or the names in a folder, are durable."""
        if os.path.isdir(path):
            self._changes.pop(path, None)
            return
        self._durable[_inode(path)] = _content(path)

    def renamed(self, source: str, target: str) -> None:
        """Note the names before a file takes another's place."""
        moved, replaced = _inode(source), _inode(target)
        if replaced:
            self._gone[replaced] = _content(target)
        self._changed(target, [(target, replaced, moved), (source, moved, 0)])

    def removed(self, path: str) -> None:
        """Note the names before a file goes."""
        held = _inode(path)
        self._gone[held] = _content(path)
        self._changed(path, [(path, held, 0)])

    def created(self, path: str) -> None:
        """Note that a file was made."""
        self._changed(path, [(path, 0, _inode(path))])

    def _changed(self, path: str, names: Names) -> None:
        self._changes.setdefault(os.path.dirname(path), []).append(names)

    def _tear(self) -> None:
        now = {str(p): _inode(str(p)) for p in sorted(self.folder.rglob("*")) if p.is_file()}
        held = dict(now)
        for changes in self._changes.values():
            kept = self._draw.randint(0, len(changes))
            for names in reversed(changes[kept:]):
                held |= {path: before for path, before, _ in names}
        places = {inode: path for path, inode in now.items()}
        contents: dict[str, bytes] = {}
        for path, inode in held.items():
            if inode:
                last = _content(places[inode]) if inode in places else self._gone[inode]
                contents[path] = self._torn(last, self._durable.get(inode, b""))
        for path in now:
            REAL_UNLINK(path)
        self._durable, self._gone, self._changes = {}, {}, {}
        for path, content in contents.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with io.FileIO(path, "w") as stream:
                stream.write(content)
            self._durable[_inode(path)] = content

    def _torn(self, last: bytes, durable: bytes) -> bytes:
        if last == durable:
            return last
        begins = durable if last.startswith(durable) else b""
        cut = self._draw.randint(len(begins), len(last))
        blank = bytes(len(last) - cut)  # a length may be durable before what was written
        return self._draw.choice((durable, last[:cut], last[:cut] + blank, last))

    def flip(self, files: list[Path]) -> Path | None:
        """Turn one bit of one of these files and return which, None where all are empty."""
        full = [file for file in sorted(files) if file.is_file() and file.stat().st_size]
        if not full:
            return None
        file = self._draw.choice(full)
        content = bytearray(file.read_bytes())
        content[self._draw.randrange(len(content))] ^= 1 << self._draw.randrange(8)
        place, known = str(file), file.stat()
        self._gone[known.st_ino] = bytes(content)  # its older name may come back
        REAL_UNLINK(place)  # what a process has in memory of it stays as it is
        with io.FileIO(place, "w") as stream:
            stream.write(content)
        REAL_UTIME(place, ns=(known.st_atime_ns, known.st_mtime_ns))
        self._durable[_inode(place)] = bytes(content)
        self.fired.append("flip")
        return file


class Stream(io.FileIO):
    """A file that is written: each write passes through its disk, and a kill leaves the beginning of it."""

    def __init__(self, disk: Disk, path: str, mode: str) -> None:
        disk.operation(writes="a" not in mode)
        new = not os.path.lexists(path)
        super().__init__(path, mode)
        self._disk = disk
        if new:
            disk.created(path)

    def write(self, content: Any, /) -> int:
        """Write all of it, nothing where the process is dead."""
        whole = memoryview(content)
        if self._disk.dead:
            return whole.nbytes
        try:
            self._disk.operation(writes=True)
        except Killed:
            super().write(whole[: whole.nbytes // 2])
            raise
        return super().write(whole)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return 0


def _content(path: str) -> bytes:
    with io.FileIO(path) as stream:
        return stream.readall()
