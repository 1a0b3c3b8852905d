"""One supervisor a folder: a lock that is gone with the process that holds it, and the pid of who that is."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fl_client.config import ConfigError

FILE = "running.lock"


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a folder; raises ``ConfigError`` where another process does."""
    with (folder / FILE).open("a+") as lock:
        for _ in range(10):  # someone who only looks holds it for a moment
            if _locked(lock, fcntl.LOCK_EX):
                break
            time.sleep(0.05)
        else:
            raise ConfigError(f"{folder} runs already (pid {_pid(folder)}); stop that first")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
        lock.truncate(0)


def check(folder: Path) -> None:
    """Raise ``ConfigError`` where another process holds a folder."""
    with only_one(folder):
        pass


def holder(folder: Path) -> int:
    """Return the pid of the process that holds a folder, 0 where none does."""
    if not (folder / FILE).exists():
        return 0
    with (folder / FILE).open("r") as lock:
        return 0 if _locked(lock, fcntl.LOCK_SH) else _pid(folder)


def _locked(lock: IO[str], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _pid(folder: Path) -> int:
    text = (folder / FILE).read_text().strip()
    return int(text) if text.isdigit() else 0
