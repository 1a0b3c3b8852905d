"""The way out: what is known of runs, the line, how much has left, and what is on its way."""

from __future__ import annotations

from typing import NamedTuple

from fl_client.gateway import ahead
from fl_client.gateway.announced import Announcements
from fl_client.gateway.egress import Meter
from fl_client.gateway.given import Given
from fl_client.gateway.link import Link
from fl_client.gateway.parcels import Trips
from fl_client.gateway.runs import Book


class Way(NamedTuple):
    """All that a call on its way to the hub may need."""

    book: Book
    line: Link
    meter: Meter
    announced: Announcements
    given: Given
    trips: Trips
    ahead: ahead.Held  # objects of the message that the SuperNode was just given


def new(book: Book, line: Link, meter: Meter) -> Way:
    """Return the way of a gateway that was just started."""
    return Way(book, line, meter, Announcements(book.folder), Given(), {}, {})
