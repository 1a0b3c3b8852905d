"""Parcels on their way: an update goes to the hub before the reply that names it, an adapter comes before its message.

Each goes on where the other side, or the disk, says that it stands, so a cut costs what was in flight. What takes
longer than a SuperNode waits goes on here while the SuperNode asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fl_client.gateway import download, upload
from fl_client.gateway.link import Link
from fl_client.gateway.runs import Away
from fl_client.gateway.trip import Over, Trip
from fl_client.parcels import Delta

WAIT_S = 20.0  # the SuperNode waits 30 s for an answer, then it asks again
Trips = dict[str, "asyncio.Future[None]"]


def begin(trips: Trips, line: Link, trip: Trip) -> None:
    """Send a parcel of the outbox on its way; ``bring`` waits for it later."""
    under_way = trips.get(_up(trip))
    if under_way is None or under_way.done():
        trips[_up(trip)] = _started(_sent(line, trip))


async def bring(trips: Trips, line: Link, trip: Trip) -> None:
    """Return once a parcel of the outbox is whole at the hub, or its run is over.

    Raises ``Away`` as long as it is not, ``Refused`` where it is not there.
    """
    await _wait(trips, _up(trip), lambda: _sent(line, trip))


async def fetch(trips: Trips, line: Link, trip: Trip, delta: Delta | None = None) -> None:
    """Return once a parcel is in the inbox, or cannot be had; raises ``Away`` as long as it is on its way."""
    await _wait(trips, f"down {trip.parcel}", lambda: download.receive(line, trip, delta))


async def _sent(line: Link, trip: Trip) -> None:
    with line.record.meter.on_its_way(trip.parcel):
        await upload.send(line, trip)


def _up(trip: Trip) -> str:
    return f"up {trip.run} {trip.parcel}"  # what one run may send, another may not


async def _wait(trips: Trips, key: str, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
    if key not in trips:
        trips[key] = _started(start())
    done, _ = await asyncio.wait({trips[key]}, timeout=WAIT_S)
    if not done:
        raise Away
    try:
        trips.pop(key).result()
    except Over:  # the hub will say so of the message itself
        return


def _started(work: Coroutine[Any, Any, None]) -> asyncio.Future[None]:
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at by then
    return task


async def end(trips: Trips) -> None:
    """Leave all that is on its way; it goes on where it stands."""
    for trip in trips.values():
        trip.cancel()
    await asyncio.gather(*trips.values(), return_exceptions=True)
