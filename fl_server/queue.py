"""The studies of a hub, one after another: each has a folder with its study, its ticket, its log."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fl_client.config import ConfigError, Section, Study, digest
from fl_client.memory import write_whole
from fl_client.settings import sentence
from fl_server import config, room
from fl_server.progress import Progress
from fl_server.run import RoundFailed

State = Literal["queued", "running", "finished", "failed", "stopping", "stopped"]
ENDED = {"finished", "failed", "stopped"}


class Ticket(Section):
    """Where a study stands."""

    name: str
    order: int  # studies run in this order
    silos: tuple[str, ...]
    study_sha256: str
    state: State = "queued"
    run: str = ""  # Flower's number of the newest run
    attempts: int = 0  # runs that ended early since the last round that was committed
    round: int = -1  # the last one committed when the newest run began
    error: str = ""
    changed: str = ""


def folder(hub: Path, name: str) -> Path:
    """Return where a study's ticket lies."""
    return hub / "queue" / name


def add(hub: Path, study: Study, silos: tuple[str, ...]) -> Ticket:
    """Queue a study; raises ``ConfigError`` where its name is taken."""
    with _locked(hub, study.name):
        if (folder(hub, study.name) / "ticket.json").exists():
            held = one(hub, study.name)
            same = held.study_sha256 == digest(study)
            hint = (
                f"continue it with: fl-server resume {study.name}"
                if same
                else "give the new one another study.name"
            )
            raise ConfigError(f"this hub has a study named {study.name!r} ({held.state}); {hint}")
        write_whole(folder(hub, study.name) / "study.toml", config.toml(study).encode())
        order = 1 + max((ticket.order for ticket in tickets(hub)), default=0)
        sha256 = digest(study)
        return _keep(hub, Ticket(name=study.name, order=order, silos=silos, study_sha256=sha256))


def tickets(hub: Path) -> list[Ticket]:
    """Return all tickets in the order of the queue; of two queued at the same moment, by name."""
    found = [_read(path) for path in (hub / "queue").glob("*/ticket.json")]
    return sorted(found, key=lambda ticket: (ticket.order, ticket.name))


def one(hub: Path, name: str) -> Ticket:
    """Return a study's ticket; raises ``ConfigError``."""
    path = folder(hub, name) / "ticket.json"
    if not path.exists():
        known = ", ".join(ticket.name for ticket in tickets(hub)) or "none yet"
        raise ConfigError(f"this hub has no study {name!r}; it has: {known}")
    return _read(path)


def study_of(hub: Path, name: str) -> Study:
    """Return the study of a ticket."""
    return config.read(folder(hub, name) / "study.toml")


def change(hub: Path, name: str, to: Callable[[Ticket], Ticket]) -> Ticket:
    """Change a ticket while nobody else does; return it as it is now. Raises ``ConfigError``."""
    one(hub, name)
    with _locked(hub, name):
        held = one(hub, name)
        made = to(held)
        return held if made == held else _keep(hub, made)


def move(
    hub: Path, name: str, state: State, only: set[str] | None = None, **others: object
) -> Ticket:
    """Put a study into another state (only from the states given); return its ticket."""

    def to(held: Ticket) -> Ticket:
        if only is not None and held.state not in only:
            return held
        return held.model_copy(update={"state": state, **others})

    return change(hub, name, to)


def note(hub: Path, name: str, **changes: object) -> Ticket:
    """Change what a ticket says but for its state, whatever that is now; return the ticket."""
    return change(hub, name, lambda held: held.model_copy(update=changes))


@contextmanager
def _locked(hub: Path, name: str) -> Iterator[None]:
    here = folder(hub, name)
    here.mkdir(parents=True, exist_ok=True)
    with (here / "ticket.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _keep(hub: Path, ticket: Ticket) -> Ticket:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    kept = ticket.model_copy(update={"changed": now})
    write_whole(folder(hub, kept.name) / "ticket.json", kept.model_dump_json(indent=1).encode())
    return kept


def _read(path: Path) -> Ticket:
    try:
        return Ticket.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(
            f"{path} is damaged: {sentence(error, Ticket)}; put back a copy"
        ) from None


@contextmanager
def claimed(hub: Path, name: str) -> Iterator[None]:
    """Hold a study while its rounds run, write its log, and note how it ended.

    For want of disk, or of silos in a round, it has not: another run takes it up. Raises ``ConfigError`` where the
    study is not to run: Flower may start a run after it was stopped.
    """
    here = folder(hub, name)
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
            state = one(hub, name).state
            if state != "running":
                raise ConfigError(f"{name} is {state}; this run of it came too late")
            yield
            move(hub, name, "finished", error="")
    except Exception as error:
        logger.exception("the study ended before its last round")
        if room.lacked(hub, error):
            logger.error("it has not failed: %s", room.WAITS)
        elif isinstance(error, RoundFailed):  # the runner counts how often
            note(hub, name, error=error.why)
        else:
            move(hub, name, "failed", {"running"}, error=str(error) or type(error).__name__)
        raise
    finally:
        logger.removeHandler(log)
        logger.removeHandler(progress)
        log.close()


def _lock(hub: Path, name: str) -> Path:
    """Return what the process of a study's rounds opens to write, and holds a lock on."""
    return folder(hub, name) / "running.lock"


def claims(hub: Path, name: str) -> int:
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
