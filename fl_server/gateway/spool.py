"""Replies on their way in, on disk: what has arrived stays, whatever happens to the line, the silo or this process.

``spool/NAME/SESSION/`` holds one reply of a silo, in a session named by what it brings, so a repeat goes on where it
was. ``SESSION.done`` stays behind once a reply was delivered, as the silo may ask again; in it is the message that it
answers. A silo sends one reply after the other: when it announces a new one, what is left of an unfinished one serves
the new one and goes.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import NamedTuple

from fl_client import fleet, memory, stock
from fl_client.silo import NAME
from fl_server import room as rooms
from fl_server.gateway import replies
from fl_server.gateway.replies import Session

TOMBS = 64  # delivered replies of a silo that are remembered
DONE = ".done"


class Upload:
    """A parcel that comes in over an open line: how many bytes it will have. Each line has one of its own."""

    def __init__(self, size: int) -> None:
        self.bytes = size


class Spool(NamedTuple):
    """All replies on their way in, by silo and session, and the parcels that come in just now, by where they lie."""

    folder: Path
    quota: int
    sessions: dict[str, dict[str, Session]]
    uploads: dict[Path, Upload]


def load(folder: Path, quota: int) -> Spool:
    """Return the replies that are on disk; objects that a power cut damaged, and what cannot be read, are dropped."""
    sessions: dict[str, dict[str, Session]] = {}
    for place in folder.glob("*/*/"):
        silo = place.parent.name
        if NAME.fullmatch(silo) and fleet.ID.fullmatch(place.name):
            try:
                sessions.setdefault(silo, {})[place.name] = replies.read(place)
            except (OSError, ValueError):
                shutil.rmtree(place, ignore_errors=True)
    return Spool(folder, quota, sessions, {})


def used(spool: Spool, silo: str) -> int:
    """Return the bytes that a silo's replies hold, with their parcels."""
    objects = sum(sum(each.held.values()) for each in spool.sessions.get(silo, {}).values())
    return objects + stock.size(updates(spool.folder, silo))


def updates(folder: Path, silo: str) -> Path:
    """Return where in the spool's folder the parcels of a silo's updates lie."""
    return folder / silo / "parcels"


def room(spool: Spool, silo: str, size: int) -> bool:
    """Return whether so many bytes more, and what open uploads still bring, fit in the silo's quota and on the disk."""
    # What comes is looked at first: what arrives in between counts twice instead of never.
    ahead = coming(spool, updates(spool.folder, silo))
    return ahead + used(spool, silo) + size <= spool.quota and fits(spool, silo, size)


def fits(spool: Spool, silo: str, size: int) -> bool:
    """Return whether so many bytes more, and what open uploads of all silos bring, leave enough of the disk free."""
    return rooms.fits(spool.folder, coming(spool, spool.folder) + size)


def coming(spool: Spool, folder: Path) -> int:
    """Return the bytes that open uploads into a folder have announced and not brought yet."""
    inside = [file for file in spool.uploads if file.is_relative_to(folder)]
    return sum(max(0, spool.uploads[file].bytes - _arrived(file)) for file in inside)


def _arrived(file: Path) -> int:
    for place in (memory.part(file), file):
        with contextlib.suppress(FileNotFoundError):
            return place.stat().st_size
    return 0


def announce(spool: Spool, silo: str, reply: fleet.Reply, body: bytes) -> Session | None:
    """Return the session of a reply, the one from before where it was announced before; None if it was delivered."""
    key, own = replies.name(silo, reply), spool.sessions.setdefault(silo, {})
    if (spool.folder / silo / (key + DONE)).exists():
        return None
    if key not in own:
        folder = spool.folder / silo / key
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{replies.REQUEST}.part"
        part.write_bytes(body)
        part.replace(folder / replies.REQUEST)
        session = Session(folder, silo, reply, {})
        for old in [each for each in own.values() if each.missing]:
            _inherit(session, old)
            forget(spool, old)
            replies.erase(old)
        own[key] = session
    return own[key]


def _inherit(session: Session, old: Session) -> None:
    for each in set(session.reply.objects) & set(old.held) - set(session.held):
        with contextlib.suppress(FileNotFoundError):
            (old.folder / each).rename(session.folder / each)
            session.held[each] = old.held.pop(each)


def find(spool: Spool, silo: str, key: str) -> Session | None:
    """Return a silo's session by its name, None where there is none."""
    return spool.sessions.get(silo, {}).get(key)


def delivered(spool: Spool, silo: str, key: str) -> bool:
    """Return whether a silo's session of this name was delivered."""
    return bool(fleet.ID.fullmatch(key)) and (spool.folder / silo / (key + DONE)).exists()


def finish(spool: Spool, session: Session) -> None:
    """Remember that a reply was delivered, and forget it."""
    tombs = sorted(session.folder.parent.glob("*" + DONE), key=lambda path: path.stat().st_mtime)
    for old in tombs[: max(0, len(tombs) + 1 - TOMBS)]:
        old.unlink()
    tomb = session.folder.with_name(session.id + DONE)
    try:
        tomb.write_text(session.reply.answers)
    except OSError:  # a full disk: after a restart the rounds find that reply at their next look
        tomb.touch()
    forget(spool, session)


def answered(folder: Path) -> list[str]:
    """Return the messages of which a reply was delivered, as far as that is remembered on disk, the newest last."""
    tombs = sorted(folder.glob("*/*" + DONE), key=lambda path: path.stat().st_mtime)
    return [told for path in tombs if (told := path.read_text("utf-8", "replace"))]


def forget(spool: Spool, session: Session) -> None:
    """Let go of a reply; ``erase`` takes it off the disk."""
    spool.sessions.get(session.silo, {}).pop(session.id, None)


def expired(spool: Spool, hours: float) -> list[Session]:
    """Return the replies of which nothing came for so many hours; what remembers delivered ones goes at that age."""
    before = time.time() - hours * 3600
    for path in spool.folder.glob("*/*" + DONE):
        if path.stat().st_mtime < before:
            path.unlink()
    return [each for each in waiting(spool) if replies.touched(each) < before]


def waiting(spool: Spool) -> list[Session]:
    """Return all replies that are not delivered yet."""
    return [each for own in spool.sessions.values() for each in own.values()]
