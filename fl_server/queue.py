"""The studies of a hub, one after another: each has a folder with its study, its ticket, its log."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fl_client import digest
from fl_client.config import ConfigError, Section, Study
from fl_client.memory import write_whole
from fl_server import config
from fl_server.entries import damage

State = Literal["queued", "running", "finished", "failed", "stopping", "stopped"]
ENDED = {"finished", "failed", "stopped"}


class Ticket(Section):
    """Where a study stands."""

    name: str
    order: int  # studies run in this order
    silos: tuple[str, ...]
    study_sha256: str
    state: State = "queued"
    run: str = ""  # Flower's number of the newest run that it made, or whose rounds have begun
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
            same = held.study_sha256 == digest.of(study)
            hint = (
                f"continue it with: fl-server resume {study.name}"
                if same
                else "give the new one another study.name"
            )
            raise ConfigError(f"this hub has a study named {study.name!r} ({held.state}); {hint}")
        write_whole(folder(hub, study.name) / "study.toml", config.toml(study).encode())
        order = 1 + max((ticket.order for ticket in tickets(hub)), default=0)
        sha256 = digest.of(study)
        return _keep(hub, Ticket(name=study.name, order=order, silos=silos, study_sha256=sha256))


def tickets(hub: Path) -> list[Ticket]:
    """Return all tickets in the order of the queue; of two queued at the same moment, by name.

    One that is damaged holds up no other study: it has failed, and says why.
    """
    found = [_seen(path) for path in (hub / "queue").glob("*/ticket.json")]
    return sorted(found, key=lambda ticket: (ticket.order, ticket.name))


def _seen(path: Path) -> Ticket:
    try:
        return _read(path)
    except ConfigError as error:
        name, said = path.parent.name, str(error)
        return Ticket(name=name, order=0, silos=(), study_sha256="", state="failed", error=said)


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
        raise ConfigError(f"{path} is damaged: {damage(error, Ticket)}; put back a copy") from None
