"""Processes and how they end: whole groups, what they left behind, and what must not outlive its parent.

On Linux the kernel helps: a process dies with its parent, and orphans come back to whoever adopts them. Elsewhere
only groups are ended.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None, use_errno=True) if LINUX else None
LOOK_S, KILLED_S = 0.05, 5.0


def adopt() -> None:
    """Make this process the parent of every orphan among its descendants."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def dies_with(parent: int) -> Callable[[], None]:
    """Return what a new process calls first so that it is killed when ``parent`` ends, whatever ends that."""

    def bind() -> None:
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:  # it ended before the kernel knew
                os._exit(1)

    return bind


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Give a list to which SIGTERM, SIGINT and SIGHUP are added as they come, in place of what they would do."""
    asked: list[int] = []

    def note(number: int, frame: Any) -> None:
        asked.append(number)

    ends = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # under nohup
        ends.remove(signal.SIGHUP)
    before = {each: signal.signal(each, note) for each in ends}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_group(leader: subprocess.Popen[bytes], seconds: float) -> None:
    """End a process and its whole group: SIGTERM, and after so many seconds SIGKILL; 0 kills at once."""
    if seconds:
        _signal(leader.pid, signal.SIGTERM)
    if not seconds or not _gone(leader, seconds):
        _signal(leader.pid, signal.SIGKILL)
        _gone(leader, KILLED_S)


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _gone(leader: subprocess.Popen[bytes], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while leader.poll() is None or _alive(leader.pid):
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_S)
    return True


def _alive(group: int) -> bool:
    with suppress(ChildProcessError):
        reaped = 1
        while reaped:  # orphans of the group, which came to us when they were adopted
            reaped, _ = os.waitpid(-group, os.WNOHANG)
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def ended(code: int) -> str:
    """Return in words how a process ended, from its ``returncode``."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def end_strays(own: set[int]) -> None:
    """Kill every child of this process that is not among its own: adopted ones that left their parent's group."""
    until = time.monotonic() + KILLED_S
    while (strays := _children() - own) and time.monotonic() < until:
        for pid in strays:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _children() -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat") if LINUX else ():
        with suppress(OSError):  # it ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(path.parent.name))
    return found
