"""Loopback, where the SuperNode asks: twelve paths and nothing else.

The SuperNode is told 200, or 403 (it drops the message and stays), and 503 for all else (it asks again): at other
answers it gives up. Only where the hub says 401 to a heartbeat it is told so, which ends it: Flower lost its node, and
the one that is started in its place activates anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from fl_client import fleet, heard
from fl_client.config import ConfigError
from fl_client.gateway import early, exchange, greet, link, parcels, runs
from fl_client.gateway import way as ways
from fl_client.gateway.egress import Meter
from fl_client.gateway.link import Answer, Call
from fl_client.gateway.runs import QUICK, Away, Refused
from fl_client.gateway.way import Way

LOG = logging.getLogger("bhasha_fl.gateway")
HOST = "127.0.0.1"
NO, LATER = Answer(403), Answer(503)
# Where a 403 would end the SuperNode, or its heartbeat, it is told to ask again.
MEMBERSHIP = {fleet.REGISTER, fleet.ACTIVATE, *exchange.SHORT_PATHS}


@contextlib.asynccontextmanager
async def open_(folder: Path, port: int) -> AsyncIterator[int]:
    """Listen as long as the context is open, and give the port; raises ``ConfigError``."""
    book, meter = runs.open_(folder), Meter(folder)
    async with link.open_(folder, book.settings, meter) as line:
        way = ways.new(book, line, meter)

        async def handle(request: web.BaseRequest) -> web.Response:
            return await _handle(way, request)

        server = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=1.0)
        await server.setup()
        try:
            async with greet.saying(folder, line), early.hearing(way):
                yield await _listen(server, port)
        finally:
            await server.cleanup()
            await parcels.end(way.trips)


async def _listen(server: web.ServerRunner, port: int) -> int:
    site = web.TCPSite(server, HOST, port)
    try:
        await site.start()
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {HOST}:{port} ({error.strerror}); free it or change gateway_port in silo.toml"
        ) from None
    return int(server.addresses[0][1])


async def _handle(way: Way, request: web.BaseRequest) -> web.Response:
    path = request.rel_url.raw_path
    if request.method != "POST" or path not in fleet.PATHS or request.rel_url.raw_query_string:
        return web.Response(status=404)
    heard.note(way.book.folder)
    body = await _body(request, fleet.PATHS[path].cap)
    found = NO if body is None else await _answer(way, path, body)
    status = found.status if found.status in (200, 403) else 503
    if status == 403 and path in MEMBERSHIP:
        status = 503
    if found.status == 401 and path == fleet.HEARTBEAT:
        status = 401
    if found.status not in (200, 403, 503):
        LOG.warning("the hub answers %d to %s", found.status, path)
    content = found.body if status == 200 else b""
    return web.Response(status=status, body=content, headers={"content-type": fleet.MEDIA})


async def _body(request: web.BaseRequest, cap: int) -> bytes | None:
    parts, size = [], 0
    while part := await request.content.readany():
        parts.append(part)
        size += len(part)
        if size > cap:
            LOG.error("%s carries more than %d bytes", request.path, cap)
            return None
    return b"".join(parts)


async def _answer(way: Way, path: str, body: bytes) -> Answer:
    try:
        async with asyncio.timeout(exchange.PATIENT.ends_s):
            return await exchange.answer(way, path, body)
    except Refused as no:
        LOG.warning("refused: %s", no)
        return await _tell(way, no)
    except (Away, TimeoutError):
        return LATER
    except ValueError as error:
        LOG.error("%s cannot be read: %s", path, error)
        return LATER
    except Exception:  # the SuperNode gives up at a 500
        LOG.exception("%s failed", path)
        return LATER


async def _tell(way: Way, no: Refused) -> Answer:
    """Tell the hub that a run is refused, by code; the SuperNode learns it only after that, else nobody would."""
    said = json.dumps({"run": no.run, "code": no.code}).encode()
    found = await link.send(way.line, Call("/v1/silo/refuse", said), QUICK)
    return NO if found.status == 200 else LATER
