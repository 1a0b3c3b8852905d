"""Replies that were announced: what each consists of is known when its objects come, also after a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import fleet, memory
from fl_client.fleet import Reply

LOG = logging.getLogger("bhasha_fl.gateway")
FOLDER = "announced"  # in a silo's
KEPT = 8  # a SuperNode sends one reply after the other
# Of a reply: five records at most, what holds them, an array, and its one chunk; what is larger travels as a parcel.
OBJECTS = 16


class Place(NamedTuple):
    """Where an object stands in its reply: how deep, and what stands below it."""

    depth: int
    children: frozenset[str]


class Announced(NamedTuple):
    """One reply: the request that announced it, as it left, what that says, and the places of its objects."""

    request: Any
    reply: Reply
    places: dict[str, Place]


def read(request: Any) -> Announced:
    """Return the reply that a push-messages request announces; raises ``ValueError`` on what is none of ours."""
    reply, places = fleet.reply(request), dict[str, Place]()
    tree = request.message_object_trees[0]
    if tree.object_id != reply.message:
        raise ValueError("a reply is not the object that it is named after")
    if len(reply.objects) > OBJECTS:
        raise ValueError("a reply of too many objects")
    for name, place in _walk(tree, 0):
        if places.setdefault(name, place) != place:
            raise ValueError("an object has two places in a reply")
    return Announced(request, reply, places)


def _walk(tree: Any, depth: int) -> Iterator[tuple[str, Place]]:
    yield tree.object_id, Place(depth, frozenset(child.object_id for child in tree.children))
    for child in tree.children:
        yield from _walk(child, depth + 1)


class Announcements:
    """The replies that a silo announced last, by the hub's names of their sessions."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder / FOLDER, dict[str, Announced]()

    def note(self, session: str, said: Announced) -> None:
        """Note a reply, durably if the disk takes it; raises ``ValueError`` where the hub's name for it is none."""
        if not fleet.ID.fullmatch(session):
            raise ValueError("the hub names no session")
        self._known[session] = said
        for old in list(self._known)[:-KEPT]:
            del self._known[old]
        try:
            memory.write_whole(self._folder / session, said.request.SerializeToString())
            for file in self._files()[:-KEPT]:
                file.unlink(missing_ok=True)
        except OSError as error:  # it is announced anew where this gateway ends before it has left
            LOG.error("an announcement cannot be written to %s: %s", self._folder, error.strerror)

    def find(self, session: str) -> Announced | None:
        """Return a reply, None where none was announced."""
        if session not in self._known and fleet.ID.fullmatch(session):
            try:
                body = (self._folder / session).read_bytes()
                self._known[session] = read(fleet.request(fleet.PUSH_MESSAGES, body))
            except (OSError, ValueError) as error:
                LOG.warning("a reply was not announced: %s", error)
        return self._known.get(session)

    def _files(self) -> list[Path]:
        return sorted(self._folder.iterdir(), key=lambda file: file.stat().st_mtime_ns)
