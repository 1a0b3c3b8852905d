"""To the SuperLink, on loopback: every call is signed for its silo with one key for life.

A SuperNode's own key is thrown away; this one makes the silo the same node for ever, and no clock but the hub's
counts. A call that is on its way is never cancelled because the silo went away: a pull is answered at most once.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_client import fleet
from fl_client.certificates import load_key, new_key, save_key

INTERVAL_S = 900.0  # the heartbeat that Flower is told: at most 1,800, two may be missed
FRESH_S = 30.0  # a signature holds for about 300 s
ONLINE, UNKNOWN, AWAY = 200, 401, 503
RUNS = 1000  # of which it is remembered whether they go on
Value = TypeVar("Value")


class Answer(NamedTuple):
    """What is answered to a silo, or what the SuperLink answered."""

    status: int
    body: bytes = b""
    media: str = fleet.MEDIA
    file: Path | None = None  # what the body is, where it is a file


class Signed(NamedTuple):
    """Headers that speak for a silo, and when they were signed (Unix seconds)."""

    at: float
    headers: dict[str, str]


class Relay(NamedTuple):
    """The way to the SuperLink."""

    keys: Path
    url: str
    client: aiohttp.ClientSession
    pairs: dict[str, ec.EllipticCurvePrivateKey]
    signed: dict[str, Signed]
    flights: set[asyncio.Task[Any]]
    runs: dict[int, tuple[float, bool]]


def open_(keys: Path, port: int) -> Relay:
    """Return the way to the SuperLink on a port of this machine."""
    client = aiohttp.ClientSession(
        # Connections go before the SuperLink lets go of them, after 5 s: a call on one that just went would be lost.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=60),
        auto_decompress=False,
    )
    return Relay(keys, f"http://127.0.0.1:{port}", client, {}, {}, set(), {})


async def close(relay: Relay) -> None:
    """Let the calls that are on their way end, for 5 s, and close."""
    if relay.flights:
        await asyncio.wait(relay.flights, timeout=5)
    for flight in relay.flights:
        flight.cancel()
    await relay.client.close()


async def fly(relay: Relay, call: Coroutine[Any, Any, Value]) -> Value:
    """Return what a call returns; it goes on to its end even if whoever waits here is cancelled."""
    flight = asyncio.get_running_loop().create_task(call)
    relay.flights.add(flight)
    flight.add_done_callback(relay.flights.discard)
    return await asyncio.shield(flight)


async def send(relay: Relay, silo: str, path: str, body: bytes) -> Answer:
    """Return what the SuperLink answers to a silo's call; status 503 where it is away."""
    return await fly(relay, _send(relay, silo, path, body))


async def _send(relay: Relay, silo: str, path: str, body: bytes) -> Answer:
    headers = sign(relay, silo)
    try:
        async with relay.client.post(relay.url + path, data=body, headers=headers) as back:
            return Answer(back.status, await back.read())
    except (aiohttp.ClientError, TimeoutError):
        return Answer(AWAY)


def sign(relay: Relay, silo: str) -> dict[str, str]:
    """Return the headers that speak for a silo. The SuperLink wants the signature of a time, nothing more."""
    now, last = time.time(), relay.signed.get(silo)
    if last is not None and 0 <= now - last.at < FRESH_S:
        return last.headers
    stamp = datetime.fromtimestamp(now, UTC).isoformat()
    signature = pair(relay, silo).sign(stamp.encode(), ec.ECDSA(hashes.SHA256()))
    headers = {
        "content-type": fleet.MEDIA,
        "accept": fleet.MEDIA,
        "flwr-public-key": base64.b64encode(public(relay, silo)).decode(),
        "flwr-timestamp": stamp,
        "flwr-signature": base64.b64encode(signature).decode(),
    }
    relay.signed[silo] = Signed(now, headers)
    return headers


def pair(relay: Relay, silo: str) -> ec.EllipticCurvePrivateKey:
    """Return the key that speaks for a silo, made at its first call and kept for life."""
    if silo not in relay.pairs:
        path = relay.keys / f"{silo}.pem"
        if not path.exists():
            save_key(path, new_key())
        relay.pairs[silo] = load_key(path)
    return relay.pairs[silo]


def public(relay: Relay, silo: str) -> bytes:
    """Return the public key that speaks for a silo, as PEM."""
    key = pair(relay, silo).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


async def activate(relay: Relay, silo: str, known: int) -> int:
    """Make a silo's node active and return its id; 0 where the SuperLink is away or will not.

    ``known`` is the id from before. A heartbeat alone brings such a node back, so it is not offline for a moment.
    """
    if known and await heartbeat(relay, silo, known) == ONLINE:
        return known
    key = public(relay, silo)
    registered = await send(
        relay, silo, fleet.REGISTER, fleet.asking(fleet.REGISTER, public_key=key)
    )
    if registered.status not in (200, 412):  # 412: it is registered already
        return 0
    body = fleet.asking(fleet.ACTIVATE, public_key=key, heartbeat_interval=INTERVAL_S)
    answer = await send(relay, silo, fleet.ACTIVATE, body)
    if answer.status != 200:
        return 0
    return int(fleet.response(fleet.ACTIVATE, answer.body).node_id)


async def heartbeat(relay: Relay, silo: str, node: int) -> int:
    """Return 200 where the SuperLink has a silo's node online, for half an hour; 401 where it does not know it."""
    body = fleet.asking(fleet.HEARTBEAT, node={"node_id": node}, heartbeat_interval=INTERVAL_S)
    answer = await send(relay, silo, fleet.HEARTBEAT, body)
    if answer.status == ONLINE and not fleet.response(fleet.HEARTBEAT, answer.body).success:
        return UNKNOWN
    return answer.status


async def goes_on(relay: Relay, silo: str, node: int, run: int) -> bool:
    """Return False where the SuperLink says that a run is over; asked at most every 10 s."""
    asked, last = relay.runs.get(run, (0.0, True))
    now = time.monotonic()
    if run in relay.runs and now - asked < 10:
        return last
    body = fleet.asking(fleet.GET_RUN, node={"node_id": node}, run_id=run)
    answer = await send(relay, silo, fleet.GET_RUN, body)
    if len(relay.runs) >= RUNS:
        relay.runs.clear()
    relay.runs[run] = now, answer.status != 403
    return answer.status != 403
