"""An adapter's way from the hub: what is in the inbox stays, and the rest is asked for."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

import aiohttp

from fl_client import audit, memory, parcels
from fl_client.gateway.link import AWAY, Link
from fl_client.gateway.trip import AWAY_S, CONTENT, TIMEOUT, Over, Pauses, Trip

LOG = logging.getLogger("bhasha_fl.gateway")
WHOLE, PARTLY, OVER, GONE = 200, 206, 403, 404


async def receive(line: Link, trip: Trip) -> None:
    """Return once a parcel is whole in the inbox, or the hub has it no more; raises ``Over``."""
    refused, away = Pauses(), Pauses(AWAY_S)
    trip.folder.mkdir(mode=0o700, exist_ok=True)
    while not await asyncio.to_thread(parcels.whole, trip.file, trip.parcel):
        status = await _rest(line, trip)
        if status == GONE:  # its round is over; whoever works on the message will find nothing
            return
        if status == OVER:
            raise Over
        if status != WHOLE:
            await (away if status == AWAY else refused).pause()
    trip.file.touch()
    parcels.prune(trip.folder)


async def _rest(line: Link, trip: Trip) -> int:
    """Receive what is missing; return 200 where the parcel is whole then, what the hub says, or 503."""
    part = memory.part(trip.file)
    held = part.stat().st_size if part.exists() else 0
    if held >= trip.parcel.bytes:  # it had all come when this gateway was killed
        return await asyncio.to_thread(complete, part, trip)
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
    except (aiohttp.ClientError, OSError) as error:
        LOG.info("the line broke under an adapter: %s", error or type(error).__name__)
    return await asyncio.to_thread(complete, part, trip)


async def _write(content: aiohttp.StreamReader, part: Path, mode: str, trip: Trip) -> None:
    with part.open(mode) as stream:
        async for piece in content.iter_any():
            if stream.tell() + len(piece) > trip.parcel.bytes:
                raise OSError("the hub sends more than it named")
            await asyncio.to_thread(stream.write, piece)


def complete(part: Path, trip: Trip) -> int:
    """Put a parcel whose last byte came in its place; return 200, or 503 where it is not all here, or not it."""
    if not part.exists() or part.stat().st_size < trip.parcel.bytes:
        return AWAY
    if parcels.whole(part, trip.parcel):
        memory.complete(trip.file)
        return WHOLE
    part.unlink()  # not what was named: from the start
    return AWAY
