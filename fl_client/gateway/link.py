"""The line to the hub: mutual TLS to one address, asked again while it is broken, and a record of all that leaves.

A line is in the record before its first byte goes out; where the record cannot be written, nothing leaves. No other
address is ever called: no redirect, no proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from fl_client import audit, certificates, fleet
from fl_client.audit import Entry
from fl_client.gateway.egress import Meter
from fl_client.silo import Folder, Settings

LOG = logging.getLogger("bhasha_fl.gateway")
AGAIN_S = 1.0  # between two tries
CONNECT_S = 5.0
# Heartbeats come every 17-23 s, and a handshake for each would take 3 % of 64 kbit/s; the hub lets go after 30 s.
IDLE_S = 25.0
BROKEN = (502, 503, 504)  # asked again
AWAY = 503
PIECE = 1 << 20
AT_ONCE = 6  # connections, of the 8 that a hub takes from a silo
# A line that swallows everything is noticed in about 12 s instead of many minutes.
PROBES = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 12_000}


class Answer(NamedTuple):
    """What the hub answered."""

    status: int
    body: bytes = b""


class Call(NamedTuple):
    """One message to the hub, and what the record says of it beside its size."""

    path: str
    body: bytes = b""
    method: str = "POST"
    study: str = ""
    round: str = ""
    back: int = fleet.SMALL  # the most bytes that an answer may have


class Patience(NamedTuple):
    """For how many seconds a call is tried again, and after how many it is given up."""

    tries_s: float
    ends_s: float


class Record(NamedTuple):
    """Where all that leaves is written down, and counted."""

    folder: Path
    meter: Meter

    def write(self, made: Entry) -> None:
        """Write down what leaves; raises ``OSError``, and then nothing may."""
        try:
            audit.append(self.folder, made)
        except OSError as error:
            LOG.error("nothing leaves, as the record cannot be written: %s", error)
            raise
        self.meter.count(made.bytes, made.sha256)


class Link(NamedTuple):
    """The line: to where, whether it held last time, and the record of what leaves over it."""

    url: str
    client: aiohttp.ClientSession
    state: dict[str, bool]
    record: Record


@contextlib.asynccontextmanager
async def open_(folder: Path, settings: Settings, meter: Meter) -> AsyncIterator[Link]:
    """Give the line to the hub of a silo's settings; ``meter`` is told the bytes that leave.

    Raises ``ConfigError`` where keys or certificates are missing.
    """
    at = Folder(folder)
    context = certificates.client_context(at.root, at.certificate, at.key)
    record, trace = Record(folder, meter), aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(_recording(record))
    connector = aiohttp.TCPConnector(
        ssl=context, limit=AT_ONCE, keepalive_timeout=IDLE_S, socket_factory=_socket
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("user-agent", "accept-encoding"),
        trace_configs=[trace],
    ) as client:
        yield Link(f"https://{settings.address}", client, {"holds": True}, record)


def _recording(record: Record) -> Any:
    async def write(session: Any, context: Any, sent: Any) -> None:
        record.write(context.trace_request_ctx())

    return write


def _socket(address: Any) -> socket.socket:
    made = socket.socket(*address[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in PROBES.items():
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


async def send(link: Link, call: Call, patience: Patience) -> Answer:
    """Return what the hub answers; 503 where it could not be reached for so long."""
    loop = asyncio.get_running_loop()
    tries_until, ends = loop.time() + patience.tries_s, loop.time() + patience.ends_s
    while True:
        try:
            async with asyncio.timeout_at(ends):
                found = await _once(link, call)
            _note(link, "")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            found = Answer(AWAY)
            _note(link, str(error) or type(error).__name__)
        if found.status not in BROKEN or loop.time() + AGAIN_S > tries_until:
            return found
        await asyncio.sleep(AGAIN_S)


async def _once(link: Link, call: Call) -> Answer:
    async with link.client.request(
        call.method,
        link.url + call.path,
        data=_data(call.body),
        headers={"content-type": fleet.MEDIA, "accept": fleet.MEDIA},
        allow_redirects=False,
        trace_request_ctx=partial(
            audit.entry, call.path.partition("?")[0], call.body, call.study, call.round
        ),
    ) as back:
        parts, size = [], 0
        while part := await back.content.readany():
            parts.append(part)
            size += len(part)
            if size > call.back:
                LOG.error("the hub answers %s with more than %d bytes", call.path, call.back)
                return Answer(500)
        return Answer(back.status, b"".join(parts))


def _data(body: bytes) -> bytes | io.BytesIO | None:
    return io.BytesIO(body) if len(body) > PIECE else body or None  # a large one is sent in pieces


def _note(link: Link, trouble: str) -> None:
    holds = not trouble
    if holds != link.state["holds"]:
        link.state["holds"] = holds
        said = "the hub is there again" if holds else f"the hub cannot be reached: {trouble}"
        LOG.log(logging.INFO if holds else logging.WARNING, said)
