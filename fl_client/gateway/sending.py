"""One try to send an update, from where the hub stands to the end, and how much of it has left.

Before its first byte goes out the record has a line for all that is to leave. Where less does, a line says how much
stayed, so that the record's sum is what left.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import BinaryIO

from fl_client import audit
from fl_client.audit import Entry
from fl_client.gateway.link import Record
from fl_client.gateway.trip import PATH, Trip

# Read at once, and encrypted at once: what the processor's cache holds is encrypted twice as fast.
READ, PIECE = 4 << 20, 256 << 10
DAY = len("2026-11-21")


class Shut(OSError):
    """The hours in which updates are sent are over."""


class Sending:
    """One try. ``left`` are the bytes that have yet to leave."""

    def __init__(self, record: Record, trip: Trip, left: int, now: Callable[[], datetime]) -> None:
        self.left, self._record, self._trip, self._now = left, record, trip, now
        self._day = ""  # of the line in the record
        self._begun = False  # as long as nothing is asked for, no such line may have been written
        record.meter.due(trip.parcel.sha256, left)

    def entry(self) -> Entry:
        """Return the line of the record for all that is to leave."""
        made = self._entry(self.left)
        self._day = made.time[:DAY]
        return made

    def _entry(self, size: int) -> Entry:
        trip = self._trip
        return audit.parcel(PATH, size, trip.parcel.sha256, trip.study, trip.round)

    async def pieces(self, stream: BinaryIO) -> AsyncIterator[memoryview]:
        """Yield what is to leave; raises ``Shut`` where its hours are over."""
        self._begun = True
        while content := memoryview(await asyncio.to_thread(stream.read, READ)):
            for at in range(0, len(content), PIECE):
                if self._trip.hours.wait_s(self._now()):
                    raise Shut("its hours are over")
                piece = content[at : at + PIECE]
                yield piece
                self.left -= len(piece)

    def end(self) -> None:
        """Take back from the record, and from the day, what did not leave after all."""
        stayed = self._entry(-self.left)
        # What was counted on another day stays counted there.
        if self.left and self._begun and stayed.time[:DAY] == self._day:
            with contextlib.suppress(OSError):  # it is logged; more is counted then than left
                self._record.write(stayed)
