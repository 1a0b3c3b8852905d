"""An update's way to the hub begins when it lies in the outbox, while Flower still carries the reply that names it.

What holds for the reply holds here: the study is admitted, the kind of message is answered, the bytes are within the
policy, the record is written first. Where any of it does not hold nothing is sent, and the reply itself is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

from fl_client import posted
from fl_client.fleet import Pulled
from fl_client.gateway import parcels, runs, trip
from fl_client.gateway.runs import Away, Refused
from fl_client.gateway.way import Way
from fl_client.parcels import Parcel
from fl_client.posted import Seal

LOG = logging.getLogger("bhasha_fl.gateway")


class Ear(asyncio.DatagramProtocol):
    """Hears the workers of one silo."""

    def __init__(self, way: Way) -> None:
        self._way, self._tasks = way, set[asyncio.Task[None]]()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Send a parcel ahead."""
        try:
            parcel, seal = posted.heard(data)
        except ValueError as error:
            LOG.error("the workers said %s", error)
            return
        task = asyncio.get_running_loop().create_task(ahead(self._way, parcel, seal))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@contextlib.asynccontextmanager
async def hearing(way: Way) -> AsyncIterator[None]:
    """Hear the workers as long as the context is open."""
    place = posted.path(way.book.folder)
    place.unlink(missing_ok=True)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: Ear(way), local_addr=str(place), family=socket.AF_UNIX
    )
    try:
        yield
    finally:
        transport.close()
        place.unlink(missing_ok=True)


async def ahead(way: Way, parcel: Parcel, seal: Seal) -> None:
    """Send the update of the message in work ahead of its reply, where the policy lets it out.

    Where messages of several runs are in work nothing is sent: it may not go under another run than its own.
    """
    asked = way.given.current()
    if asked is None:
        return
    try:
        await runs.study(way.book, way.line, asked.run)
        if not _admitted(way, asked, parcel):
            return
    except (Refused, Away) as no:
        LOG.info("nothing is sent ahead: %s", no)
        return
    parcels.begin(way.trips, way.line, trip.out(way.book, asked.run, parcel, asked.round, seal))


def _admitted(way: Way, asked: Pulled, parcel: Parcel) -> bool:
    most = runs.rules(way.book).egress
    if asked.kind not in most.kinds:
        return False
    way.meter.announce(asked.message, asked.run, asked.round)
    return way.meter.fits(asked.message, asked.run, parcel.sha256, parcel.bytes, most)
