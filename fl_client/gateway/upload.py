"""An update's way to the hub: what the hub has of it is asked, and the rest is sent in one stream."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import BinaryIO

import aiohttp
from safetensors import SafetensorError, safe_open

from fl_client import audit, parcels, posted
from fl_client.gateway import link
from fl_client.gateway.link import AWAY, Call, Link, Patience
from fl_client.gateway.runs import Refused
from fl_client.gateway.trip import AWAY_S, PATH, Over, Pauses, Trip
from fl_client.hours import Hours

LOG = logging.getLogger("bhasha_fl.gateway")
SHORT = Patience(3.0, 4.0)
# What was handed to the system may take minutes to leave over a slow line; one that is dead is noticed by its probes.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=300)
LOOK_S = (
    600.0  # between two times of asking whether an update that waits for its hours is still wanted
)
# Read at once, and encrypted at once: what the processor's cache holds is encrypted twice as fast.
READ, PIECE = 4 << 20, 256 << 10
TAKEN, OTHER = 200, 422  # the hub has all of it; what came is not what it was called


class Shut(OSError):
    """The hours in which updates are sent are over."""


async def send(line: Link, trip: Trip) -> None:
    """Return once the hub has the whole parcel; raises ``Over``, or ``Refused`` where it is not in the outbox."""
    await _check(trip)
    refused, away = Pauses(), Pauses(AWAY_S)
    while True:
        held = await _held(line, trip)
        if held == trip.parcel.bytes:
            return
        shut_s = trip.hours.wait_s(_now())
        if shut_s:
            LOG.info("an update of round %s waits %d min for its hours", trip.round, shut_s / 60)
            await asyncio.sleep(min(shut_s, LOOK_S))
            continue
        status = AWAY if held is None else await _rest(line, trip, held)
        if status == OTHER:  # a disk may have lost what was written to it
            trip = trip._replace(seal=None)
            await _check(trip)
        if status == TAKEN:
            refused.reset()
        elif status == AWAY:
            await away.pause()
        else:
            LOG.warning("the hub answers %d to an update of round %s", status, trip.round)
            await refused.pause()


async def _check(trip: Trip) -> None:
    if not await asyncio.to_thread(sound, trip):
        LOG.error("the update that a reply names is gone from %s", trip.folder)
        raise Refused(trip.run, "parcel_missing")


def sound(trip: Trip) -> bool:
    """Return whether what leaves is what its name says, and tensors: nothing else goes this way."""
    try:
        known = trip.seal is not None and trip.seal == posted.seal(trip.file)
        if not known and not parcels.whole(trip.file, trip.parcel):
            return False
        with safe_open(trip.file, "numpy"):
            return True
    except (SafetensorError, OSError):
        return False


async def _held(line: Link, trip: Trip) -> int | None:
    """Return how much of a parcel the hub has, None where it cannot say now; raises ``Over``."""
    call = Call(f"{PATH}?{trip.query}", method="GET", study=trip.study, round=trip.round)
    found = await link.send(line, call, SHORT)
    if found.status == 403:
        raise Over
    try:
        return int(json.loads(found.body)["held"]) if found.status == 200 else None
    except (ValueError, KeyError, TypeError):
        return None


async def _rest(line: Link, trip: Trip, held: int) -> int:
    """Send what is missing; return 200 where the hub took all of it, what else it says, or 503."""
    left = trip.parcel.bytes - held
    try:
        with trip.file.open("rb") as stream:
            stream.seek(held)
            async with line.client.post(
                f"{line.url}{PATH}?{trip.query}&at={held}",
                data=_pieces(stream, trip.hours),
                headers={"content-length": str(left), "content-type": "application/octet-stream"},
                allow_redirects=False,
                timeout=TIMEOUT,
                trace_request_ctx=partial(
                    audit.parcel, PATH, left, trip.parcel.sha256, trip.study, trip.round
                ),
            ) as back:
                await back.read()
                return back.status
    except (aiohttp.ClientError, OSError) as error:
        LOG.info("the line broke under an update: %s", error or type(error).__name__)
        return AWAY


async def _pieces(stream: BinaryIO, hours: Hours) -> AsyncIterator[memoryview]:
    while content := memoryview(await asyncio.to_thread(stream.read, READ)):
        for at in range(0, len(content), PIECE):
            if hours.wait_s(_now()):
                raise Shut("its hours are over")
            yield content[at : at + PIECE]


def _now() -> datetime:
    return datetime.now()  # as people here read it
