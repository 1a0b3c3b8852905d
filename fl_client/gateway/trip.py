"""One parcel between a silo's folder and the hub, and how it is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

import aiohttp

from fl_client import hours, parcels
from fl_client.gateway import egress
from fl_client.gateway.runs import Book
from fl_client.hours import Hours
from fl_client.parcels import Parcel
from fl_client.posted import Seal

PATH, CONTENT = egress.PARCEL, "/v1/silo/parcel/content"
PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
AWAY_S = 3.0  # the longest while the line is away, when a try costs next to nothing
# A hub that takes or sends nothing for so long is asked anew.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30)


class Over(Exception):
    """The run is over: nobody waits for the parcel any more."""


class Trip(NamedTuple):
    """A parcel: of which run and study, for which round, and in which folder of the silo it lies.

    Who wrote it hashed what it wrote: as long as the ``seal`` is whole it need not be read again to know it.
    """

    run: int
    parcel: Parcel
    study: str
    round: str
    folder: Path
    seal: Seal | None = None
    hours: Hours = Hours()  # in which it may be sent

    @property
    def query(self) -> str:
        """What the hub is told of it."""
        return f"run={self.run}&parcel={self.parcel}"

    @property
    def file(self) -> Path:
        """Where it lies."""
        return parcels.path(self.folder, self.parcel)


def out(book: Book, run: int, parcel: Parcel, round: str, seal: Seal | None = None) -> Trip:
    """Return the trip of an update of the outbox, of a run whose study is known."""
    study, folder = book.studies[run].study.name, book.folder / parcels.OUTBOX
    return Trip(run, parcel, study, round, folder, seal, hours.parse(book.settings.update_hours))


class Pauses:
    """Ever longer pauses between tries, up to the longest, short again after one that got somewhere."""

    def __init__(self, longest_s: float = LONGEST_PAUSE_S) -> None:
        self._next, self._longest_s = PAUSE_S, longest_s

    async def pause(self) -> None:
        """Wait, and twice as long the next time."""
        await asyncio.sleep(self._next)
        self._next = min(2 * self._next, self._longest_s)

    def reset(self) -> None:
        """Begin again with a short one."""
        self._next = PAUSE_S
