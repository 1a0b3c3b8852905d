"""An update's way to the hub: what the hub has of it is asked, and the rest is sent in one stream."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import datetime
from typing import BinaryIO

import aiohttp

from fl_client import parcels, posted
from fl_client.gateway import arrays, link
from fl_client.gateway.link import AWAY, Call, Link, Patience
from fl_client.gateway.runs import Refused
from fl_client.gateway.sending import Sending
from fl_client.gateway.trip import AWAY_S, PATH, Over, Pauses, Trip

LOG = logging.getLogger("bhasha_fl.gateway")
SHORT = Patience(3.0, 4.0)
# What was handed to the system may take minutes to leave over a slow line; one that is dead is noticed by its probes.
TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=300)
LOOK_S = (
    600.0  # between two times of asking whether an update that waits for its hours is still wanted
)
TAKEN, OTHER = 200, 422  # the hub has all of it; what came is not what it was called


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
        raise _gone(trip, "it is not what the reply names")


def _gone(trip: Trip, why: object) -> Refused:
    LOG.error("the update that a reply names is gone from %s: %s", trip.folder, why)
    return Refused(trip.run, "parcel_missing")


def sound(trip: Trip) -> bool:
    """Return whether what leaves is what its name says, and arrays that may leave: nothing else goes this way."""
    try:
        known = trip.seal is not None and trip.seal == posted.seal(trip.file)
        if not known and not parcels.whole(trip.file, trip.parcel):
            return False
        arrays.check(trip.file)
    except (ValueError, OSError) as error:
        LOG.error("%s does not leave: %s", trip.file, error)
        return False
    return True


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
    """Send what is missing; return 200 where the hub took all of it, what else it says, or 503.

    Raises ``Refused`` where the update is not in the outbox any more.
    """
    now = Sending(line.record, trip, trip.parcel.bytes - held, _now)
    with _opened(trip) as stream:
        stream.seek(held)
        try:
            async with line.client.post(
                f"{line.url}{PATH}?{trip.query}&at={held}",
                data=now.pieces(stream),
                headers={
                    "content-length": str(now.left),
                    "content-type": "application/octet-stream",
                },
                allow_redirects=False,
                timeout=TIMEOUT,
                trace_request_ctx=now.entry,
            ) as back:
                await back.read()
                return back.status
        except (aiohttp.ClientError, OSError) as error:
            LOG.info("the line broke under an update: %s", error or type(error).__name__)
            return AWAY
        finally:
            now.end()


def _opened(trip: Trip) -> BinaryIO:
    """Return the file of an update; raises ``Refused`` where it is not there: no line can be blamed for that."""
    try:
        stream = trip.file.open("rb")
    except OSError as error:
        raise _gone(trip, error.strerror) from error
    if os.fstat(stream.fileno()).st_size != trip.parcel.bytes:
        stream.close()
        raise _gone(trip, "it has another length")
    return stream


def _now() -> datetime:
    return datetime.now()  # as people here read it
