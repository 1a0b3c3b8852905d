"""One reply on its way in, in a folder of its own: the announcement, and each object under the SHA-256 of its bytes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from fl_client import fleet

LARGE = 1 << 20  # objects of this size are on disk before they are acknowledged
EACH = 64  # up to so many small ones are brought to disk one by one
REQUEST, PUSH = "request", "push"


class Session(NamedTuple):
    """One reply: where it lies, what it is, and the sizes of the objects that are here."""

    folder: Path
    silo: str
    reply: fleet.Reply
    held: dict[str, int]

    @property
    def id(self) -> str:
        """What the session is called on the wire."""
        return self.folder.name

    @property
    def missing(self) -> list[str]:
        """The objects that have not arrived yet, children before parents."""
        return [each for each in self.reply.objects if each not in self.held]


class Push(NamedTuple):
    """The SuperLink's own session for a reply: its key, and the objects it asked for."""

    key: str
    wanted: list[str]


def name(silo: str, reply: fleet.Reply) -> str:
    """Return what a reply's session is called: a hash of whose it is, which message, and all its objects."""
    parts = (silo, str(reply.run), reply.message, reply.answers, *reply.objects)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read(folder: Path) -> Session:
    """Return a reply that is on disk, less what a power cut damaged; raises ``OSError``, ``ValueError``."""
    body = (folder / REQUEST).read_bytes()
    reply = fleet.reply(fleet.request(fleet.PUSH_MESSAGES, body))
    if name(folder.parent.name, reply) != folder.name:
        raise ValueError("not the announcement of this reply")
    held = {}
    for path in folder.iterdir():
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() == path.name:
            held[path.name] = len(content)
        elif path.name not in (REQUEST, PUSH):
            path.unlink()
    return Session(folder, folder.parent.name, reply, held)


def store(session: Session, object_: str, content: bytes) -> bool:
    """Write an object and return whether it is what its name says; raises ``OSError``, such as where the disk is full.

    It counts once ``held`` has it: this may run in a thread, that is the loop's to do.
    """
    if hashlib.sha256(content).hexdigest() != object_:
        return False
    part = session.folder / f"{uuid4().hex}.part"
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            if len(content) >= LARGE:
                os.fdatasync(stream.fileno())
        part.rename(session.folder / object_)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return True


def open_(session: Session, push: Push) -> None:
    """Remember the SuperLink's session, beyond this process."""
    part = session.folder / f"{PUSH}.part"
    part.write_text(json.dumps(push))
    part.replace(session.folder / PUSH)


def opened(session: Session) -> Push | None:
    """Return the SuperLink's session, None where it has not opened one yet, or a power cut took it."""
    try:
        return Push(*json.loads((session.folder / PUSH).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def sync(session: Session) -> None:
    """Bring to disk what is not there for sure: the small objects, and the names of all."""
    small = [each for each, size in session.held.items() if size < LARGE]
    if len(small) > EACH:
        os.sync()
        return
    for each in [*small, REQUEST, "."]:
        with contextlib.suppress(FileNotFoundError):  # delivered meanwhile
            handle = os.open(session.folder / each, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def erase(session: Session) -> None:
    """Take a reply off the disk, which may take a moment."""
    shutil.rmtree(session.folder, ignore_errors=True)


def touched(session: Session) -> float:
    """Return when something last came of a reply, in Unix seconds."""
    try:
        return session.folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
