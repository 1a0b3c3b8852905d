"""Who runs a study's rounds: a process holds a lock while it does, writes the study's log, and notes how it ended."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_client.config import ConfigError
from fl_server import queue, room
from fl_server.progress import Progress
from fl_server.run import RoundFailed


@contextmanager
def claimed(hub: Path, name: str, run: str = "") -> Iterator[None]:
    """Hold a study while its rounds run, write its log, and note Flower's number of the run, and how it ended.

    For want of disk, or of silos in a round, it has not: another run takes it up. Raises ``ConfigError`` where the
    study is not to run: Flower may start a run after it was stopped.
    """
    here = queue.folder(hub, name)
    log = logging.FileHandler(here / "log.txt", encoding="utf-8")
    log.setLevel(logging.INFO)
    log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger, progress = logging.getLogger("bhasha_fl"), Progress(here)
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    logger.addHandler(progress)
    try:
        with _lock(hub, name).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(str(os.getpid()))
            lock.flush()
            state = queue.one(hub, name).state
            if state != "running":
                raise ConfigError(f"{name} is {state}; this run of it came too late")
            if run:  # the runner may have died before it could note what it had started
                queue.note(hub, name, run=run)
            yield
            queue.move(hub, name, "finished", error="")
    except Exception as error:
        logger.exception("the study ended before its last round")
        if room.lacked(hub, error):
            logger.error("it has not failed: %s", room.WAITS)
        elif isinstance(error, RoundFailed):  # the runner counts how often
            queue.note(hub, name, error=error.why)
        else:
            queue.move(hub, name, "failed", {"running"}, error=str(error) or type(error).__name__)
        raise
    finally:
        logger.removeHandler(log)
        logger.removeHandler(progress)
        log.close()


def _lock(hub: Path, name: str) -> Path:
    """Return what the process of a study's rounds opens to write, and holds a lock on."""
    return queue.folder(hub, name) / "running.lock"


def count(hub: Path, name: str) -> int:
    """Return a number that is another one once a process has come to run this study's rounds, however soon it ended."""
    path = _lock(hub, name)
    return path.stat().st_mtime_ns if path.exists() else 0


def held(hub: Path, name: str) -> bool:
    """Return whether a process runs this study's rounds."""
    path = _lock(hub, name)
    if not path.exists():
        return False
    with path.open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
