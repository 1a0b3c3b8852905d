"""The public port. A request is checked in this order, and nothing of its body is read before all hold.

Is the path one of ours; is the caller on the roster, with this very certificate; has its address or name few enough
connections; does it say how long its body is, and is that little enough; is there room on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from aiohttp import web

from fl_client import address, certificates, fleet
from fl_client.config import ConfigError
from fl_server import roster
from fl_server.gateway import calls, delivery, desk, limits, parcels, presence, seen, spool
from fl_server.gateway.gate import Call, Gate, Route
from fl_server.gateway.limits import Door, Refused
from fl_server.gateway.relay import Answer

LOG = logging.getLogger("bhasha_fl.gateway")
HTTP = logging.getLogger("bhasha_fl.gateway.http")
HTTP.setLevel(logging.CRITICAL)  # a stranger who does not speak HTTP must not fill the log
# An announcement needs no quota: the next reply must get in to take the place of an unfinished one.
ROOM = {fleet.PUSH_MESSAGES: spool.fits, fleet.PUSH_OBJECT: spool.room}
ROUTES = (
    desk.ROUTES
    | parcels.ROUTES
    | {
        ("POST", path): Route(calls.answer, rule.cap, room=ROOM.get(path))
        for path, rule in fleet.PATHS.items()
    }
)
TICK_S, SWEEP_S, PRESENT_S = 1.0, 30.0, 60.0


async def handle(gate: Gate, door: Door, request: web.BaseRequest) -> web.StreamResponse:
    """Answer a request at the public port."""
    link, size = None, 0
    try:
        route = ROUTES.get((request.method, request.rel_url.raw_path))
        if route is None:
            raise Refused(404)
        silo, admitted = _whose(gate, request, route)
        link = limits.enter(door, request, silo)
        expected = limits.length(request, route.cap)
        if route.room and not route.room(gate.spool, silo, expected):
            LOG.error("%s: no room for %d bytes more", silo, expected)
            raise Refused(507)
        parts = limits.parts(request, expected)
        body = b"" if route.streams else b"".join([part async for part in parts])
        if silo:
            seen.hear(gate.seen, silo)
        path, query = request.rel_url.raw_path, request.query
        call = Call(silo, path, query, request.headers, body, parts, admitted)
        found = await route.answer(gate, call)
        size = found.file.stat().st_size if found.file else len(found.body)
        return _response(found)
    except Refused as no:
        return _last(no.status)
    except Exception:
        LOG.exception("a request could not be answered")
        return _last(500)
    finally:
        if link:
            limits.leave(link, size)


def _response(answer: Answer) -> web.StreamResponse:
    headers = {"content-type": answer.media, "server": "bhasha-fl"}
    if answer.file:
        return web.FileResponse(answer.file, chunk_size=1 << 20, headers=headers)
    return web.Response(status=answer.status, body=answer.body, headers=headers)


def _last(status: int) -> web.StreamResponse:
    response = _response(Answer(status))
    response.force_close()
    return response


def _whose(gate: Gate, request: web.BaseRequest, route: Route) -> tuple[str, Callable[[], bool]]:
    way = request.transport
    tls = way.get_extra_info("ssl_object") if way else None
    if tls is None:
        raise Refused(400)
    name = certificates.silo_of(tls.getpeercert())
    der = tls.getpeercert(True) or b""

    def admitted() -> bool:
        return bool(name) and roster.admits(gate.folder, name, der)

    if route.stranger:
        return "", admitted
    if not admitted():
        raise Refused(403)
    return name, admitted


@contextlib.asynccontextmanager
async def open_(gate: Gate) -> AsyncIterator[tuple[Door, int]]:
    """Listen as long as the context is open, and give the door and its port; raises ``ConfigError``."""
    listener = _listen(gate.settings.listen)
    tls = context(gate.folder)
    door = Door(_server(gate, lambda: door), tls, gate.settings.max_connections, [])
    loop = asyncio.get_running_loop()
    chores = [
        loop.create_task(_every(TICK_S, lambda: limits.admit(door, listener))),
        loop.create_task(_every(TICK_S, lambda: _tick(door))),
        loop.create_task(_every(SWEEP_S, lambda: delivery.sweep(gate))),
        loop.create_task(_every(PRESENT_S, lambda: presence.keep(gate))),
    ]
    try:
        yield door, listener.getsockname()[1]
    finally:
        for chore in chores:
            chore.cancel()
        await asyncio.gather(*chores, return_exceptions=True)
        listener.close()
        await door.server.shutdown(0.5)
        for link in door.links:
            link.cut()


def _server(gate: Gate, door: Callable[[], Door]) -> web.Server:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        return await handle(gate, door(), request)

    return web.Server(
        answer,
        access_log=None,
        logger=HTTP,
        auto_decompress=False,
        lingering_time=0,
        read_bufsize=1 << 20,
    )


def context(hub: Path) -> ssl.SSLContext:
    """Return TLS as a hub speaks it with silos; raises ``ConfigError``."""
    held = certificates.server_context(hub / "server.pem", hub / "server.key", hub / "root.pem")
    # A silo shows the CA's certificate from the day it joined, which may be over while its own is not: where the CA's
    # was renewed, the new one counts. It has the same key, and holds as the root signed it.
    try:
        held.load_verify_locations(hub / "ca.pem")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{hub / 'ca.pem'} cannot be used ({error}); put back a copy of it"
        ) from None
    return held


def _listen(where: str) -> socket.socket:
    host, port = address.split(where)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise ConfigError(
            f"nothing can listen on {where} ({error.strerror}); stop what does, or change listen in hub.toml"
        ) from None
    listener.setblocking(False)
    return listener


async def _tick(door: Door) -> None:
    limits.sweep(door)


async def _every(seconds: float, chore: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await chore()
        except Exception:  # whatever it is, the hub stays open
            LOG.exception("a chore failed")
        await asyncio.sleep(seconds)
