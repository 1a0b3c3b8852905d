"""An adapter's way from the hub: what is in the inbox stays, and the rest is asked for.

Where the hub offers what changed since a parcel that is still in the inbox, that is all that travels; whatever is wrong
with it, the parcel is fetched whole. What has no room on the disk is not fetched: the work that needs it will say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from functools import partial
from io import FileIO
from pathlib import Path

import aiohttp

from fl_client import audit, deltas, memory, parcels, room, stock
from fl_client.gateway.link import AWAY, Link
from fl_client.gateway.trip import AWAY_S, CONTENT, TIMEOUT, Over, Pauses, Trip
from fl_client.parcels import Delta

LOG = logging.getLogger("bhasha_fl.gateway")
WHOLE, PARTLY, OVER, GONE, WRONG = 200, 206, 403, 404, 422


class Unwritable(Exception):
    """This silo's own disk does not take an adapter, or does not give it back; the line has no part in it."""


@contextlib.contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unwritable(error.strerror or error) from error


async def receive(line: Link, trip: Trip, delta: Delta | None = None) -> None:
    """Return once a parcel is whole in the inbox, or the hub has it no more, or it has no room; raises ``Over``."""
    pauses = Pauses()
    while True:
        try:
            return await _receive(line, trip, delta)
        except Unwritable as error:
            LOG.error("an adapter cannot be kept on the disk of %s: %s", trip.folder, error)
            await pauses.pause()


async def _receive(line: Link, trip: Trip, delta: Delta | None) -> None:
    refused, away = Pauses(), Pauses(AWAY_S)
    with _on_disk():
        trip.folder.mkdir(mode=0o700, exist_ok=True)
    if delta is not None and room.fits(trip.folder, delta.parcel.bytes + trip.parcel.bytes):
        await _by_delta(line, trip, delta)
    while not await asyncio.to_thread(parcels.whole, trip.file, trip.parcel):
        status = await _rest(line, trip) if _has_room(trip) else GONE
        if status == GONE:  # or its round is over; whoever works on the message will find nothing
            return
        if status == OVER:
            raise Over
        if status != WHOLE:
            await (away if status == AWAY else refused).pause()
    with _on_disk():
        trip.file.touch()
        stock.prune(trip.folder)


def _has_room(trip: Trip) -> bool:
    """Return whether there is room for what is missing of a parcel; where there is none, what came of it goes."""
    missing = trip.parcel.bytes - _held(trip)
    if room.fits(trip.folder, missing):
        return True
    LOG.error(
        "an adapter is not fetched: the disk of %s has %d MiB free, and it would take %d MiB and leave %d; free some",
        trip.folder,
        room.free(trip.folder) >> 20,
        missing >> 20,
        room.SPARE >> 20,
    )
    memory.part(trip.file).unlink(missing_ok=True)
    return False


def _held(trip: Trip) -> int:
    """Return how many bytes of a parcel have come."""
    part = memory.part(trip.file)
    return part.stat().st_size if part.exists() else 0


async def _by_delta(line: Link, trip: Trip, delta: Delta) -> None:
    """Make a parcel of the inbox from another one there, if that can be done; raises ``Over``."""
    short, pauses = trip._replace(parcel=delta.parcel), Pauses(AWAY_S)
    if not await asyncio.to_thread(shorter, trip, delta):
        return
    while (status := await _rest(line, short)) == AWAY:
        await pauses.pause()
    if status == OVER:
        raise Over
    await asyncio.to_thread(rebuild, trip, delta)


def rebuild(trip: Trip, delta: Delta) -> None:
    """Make a parcel of the inbox of a delta that came, if it is of use; either way the delta is let go."""
    try:
        deltas.rebuild(trip.folder, trip.parcel, delta)
        memory.part(trip.file).unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        LOG.warning("an adapter is fetched whole, as its delta is of no use: %s", error)
    came = parcels.path(trip.folder, delta.parcel)
    for file in (came, memory.part(came)):
        file.unlink(missing_ok=True)


def shorter(trip: Trip, delta: Delta) -> bool:
    """Return whether a delta spares the line something: it starts from what is here, and the parcel is not."""
    missing = trip.parcel.bytes - _held(trip)
    here = parcels.path(trip.folder, delta.start)
    return (
        delta.parcel.bytes < missing
        and not parcels.whole(trip.file, trip.parcel)
        and parcels.whole(here, delta.start)
    )


async def _rest(line: Link, trip: Trip) -> int:
    """Receive what is missing; return 200 where the parcel is whole then, what the hub says, 503, or 422.

    422 is for what is not the parcel that was named; it is let go. Raises ``Unwritable``.
    """
    part, held = memory.part(trip.file), _held(trip)
    if held >= trip.parcel.bytes:  # it had all come when this gateway was killed
        return await _completed(part, trip)
    try:
        async with line.client.get(
            f"{line.url}{CONTENT}?{trip.query}",
            headers={"range": f"bytes={held}-"} if held else {},
            allow_redirects=False,
            timeout=TIMEOUT,
            trace_request_ctx=partial(
                audit.parcel, CONTENT, 0, trip.parcel.sha256, trip.study, trip.round
            ),
        ) as back:
            if back.status not in (WHOLE, PARTLY):
                return back.status
            await _write(back.content, part, "ab" if back.status == PARTLY else "wb", trip)
    except ValueError as error:
        LOG.warning("%s", error)
        part.unlink()
        return WRONG
    except (aiohttp.ClientError, OSError) as error:
        LOG.info("the line broke under an adapter: %s", error or type(error).__name__)
    return await _completed(part, trip)


async def _write(content: aiohttp.StreamReader, part: Path, mode: str, trip: Trip) -> None:
    with _on_disk():
        stream = FileIO(part, mode)
    with stream:
        async for piece in content.iter_any():
            if stream.tell() + len(piece) > trip.parcel.bytes:
                raise ValueError("the hub sends more than it named")
            with _on_disk():
                await asyncio.to_thread(memory.write, stream, piece)


async def _completed(part: Path, trip: Trip) -> int:
    with _on_disk():
        return await asyncio.to_thread(complete, part, trip)


def complete(part: Path, trip: Trip) -> int:
    """Put a parcel whose last byte came in its place; return 200, 503 where more is to come, 422 where it is not it."""
    if not part.exists() or part.stat().st_size < trip.parcel.bytes:
        return AWAY
    if parcels.whole(part, trip.parcel):
        memory.complete(trip.file)
        return WHOLE
    part.unlink()  # not what was named: from the start
    return WRONG
