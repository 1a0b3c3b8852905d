"""What programs take: seconds, processor seconds and memory, of all processes that they start and leave behind."""

from __future__ import annotations

import ctypes
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

BIN = Path(sys.executable).parent
SUBREAPER = 36  # of prctl: what a child leaves behind becomes ours, so that its time is counted
EVERY_S, SHARE = 0.2, 20
NOTE_S = 0.005


class Cost(NamedTuple):
    """What a program took. Memory is its share of what processes hold together (PSS), the most at one time."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


@contextmanager
def measured() -> Iterator[list[Cost]]:
    """Measure all programs started inside; the list that is given holds the cost afterwards."""
    found: list[Cost] = []
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    watch = _Watch()
    began, used = time.perf_counter(), _children_s()
    watch.start()
    try:
        yield found
    finally:
        wall = time.perf_counter() - began
        _end()
        watch.stop()
    # What a parent does not wait for is in no sum of the system's, as what Ray's daemon starts: that was looked at.
    found.append(Cost(wall, max(_children_s() - used, watch.cpu_s), watch.peak))


@contextmanager
def noted(file: Path) -> Iterator[list[tuple[int, float]]]:
    """Give a list that grows as a file does: its lines, and the processor seconds of all programs until then."""
    seen: list[tuple[int, float]] = []
    ended = threading.Event()
    looks = threading.Thread(target=_note, args=(file, seen, ended), daemon=True)
    looks.start()
    try:
        yield seen
    finally:
        ended.set()
        looks.join()


def _note(file: Path, seen: list[tuple[int, float]], ended: threading.Event) -> None:
    own, known = psutil.Process(), 0
    while not ended.wait(NOTE_S):
        if file.exists() and file.stat().st_size != known:
            known = file.stat().st_size
            spent = sum(map(_cpu_s, own.children(recursive=True)))
            seen.append((file.read_bytes().count(b"\n"), spent))


def ran(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run a command to its end and return its cost; raises ``SystemExit`` with its last words where it fails."""
    log = folder / "log.txt"
    with measured() as found, log.open("wb") as stream:
        ended = subprocess.run(command, cwd=folder, env=environment, stdout=stream, stderr=stream)
    if ended.returncode:
        raise SystemExit(f"{command[:3]} failed:\n{log.read_text(errors='replace')[-3000:]}")
    return found[0]


def repeated(
    ours: Callable[[], Cost], peers: Callable[[], Cost], times: int
) -> list[tuple[Cost, Cost]]:
    """Return what both take, in turn, so many times after one that warms the disk's cache up; one is not warmed up."""
    pairs = [(ours(), peers()) for _ in range(times + (times > 1))]
    return pairs[times > 1 :]


def ratio(pairs: list[tuple[Cost, Cost]], what: Callable[[Cost], float]) -> float:
    """Return how many times as much the peer takes: the median over pairs."""
    return statistics.median(what(peer) / what(own) for own, peer in pairs)


def often(times: int) -> str:
    """Return what a label says of a figure that is no median: that it was measured once."""
    return ", once" if times == 1 else ""


class _Watch(threading.Thread):
    """Looks at the memory and the time of all descendants of this process every so often."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._done = 0, threading.Event()
        self._used: dict[psutil.Process, float] = {}  # by each, as last seen

    @property
    def cpu_s(self) -> float:
        """The processor seconds that were seen: a little less than all."""
        return sum(self._used.values())

    def run(self) -> None:
        """Look until ``stop``."""
        own = psutil.Process()
        pause_s = EVERY_S
        while not self._done.wait(pause_s):
            began = time.perf_counter()
            children = own.children(recursive=True)
            self.peak = max(self.peak, sum(map(_pss, children)))
            for child in children:  # one that has just ended says nothing any more
                self._used[child] = max(self._used.get(child, 0.0), _cpu_s(child))
            # To look at much memory takes long, and from what is measured.
            pause_s = max(EVERY_S, SHARE * (time.perf_counter() - began))

    def stop(self) -> None:
        """Look no more."""
        self._done.set()
        self.join()


def _pss(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def _cpu_s(process: psutil.Process) -> float:
    try:
        used = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(used.user + used.system)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end(patience_s: float = 20.0) -> None:
    """Wait for what programs left behind, then end it; all of it was started from here."""
    until = time.monotonic() + patience_s
    while left := psutil.Process().children(recursive=True):
        late = time.monotonic() > until
        for process in left if late else ():
            with suppress(psutil.Error):
                process.terminate() if time.monotonic() < until + 5 else process.kill()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.1)
