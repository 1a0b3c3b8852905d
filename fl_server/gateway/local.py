"""What the hub's own programs are told, over a Unix socket that only this user may open. Silos never reach it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from aiohttp import web
from pydantic import Base64Bytes, Field, ValidationError

from fl_client.config import Section
from fl_server.gateway import pulls, seen, spool, studies
from fl_server.gateway.gate import Gate

READY_S = 20.0
NOTHING = -1  # rings heard of this process


class Registered(Section):
    """A Flower run and its signed study."""

    run: Annotated[int, Field(ge=0, lt=1 << 64)]
    envelope: Annotated[Base64Bytes, Field(min_length=1, max_length=1 << 20)]


@contextlib.asynccontextmanager
async def open_(gate: Gate, socket: Path) -> AsyncIterator[None]:
    """Listen on the socket as long as the context is open."""

    async def ready(request: web.Request) -> web.Response:
        since = request.query.get("since", "")
        own = request.query.get("process") == gate.process and since.isdecimal()
        heard = int(since) if own else NOTHING
        count = await gate.ready.wait(heard, READY_S)
        told = {"process": gate.process, "count": count, "answered": answered(gate, heard)}
        return web.json_response(told)

    async def kick(request: web.Request) -> web.Response:
        gate.kicks.ring()
        return web.json_response({"count": gate.kicks.count})

    async def about(request: web.Request) -> web.Response:
        return web.json_response({"silos": status(gate)})

    async def register(request: web.Request) -> web.Response:
        try:
            said = Registered.model_validate_json(await request.read())
        except ValidationError:
            return web.Response(status=400)
        studies.keep(gate.folder, said.run, said.envelope)
        return web.json_response({"run": said.run})

    app = web.Application(client_max_size=2 << 20)
    app.add_routes(
        [
            web.get("/ready", ready),
            web.post("/kick", kick),
            web.get("/status", about),
            web.post("/runs", register),
        ]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    socket.unlink(missing_ok=True)
    await web.UnixSite(runner, str(socket)).start()
    socket.chmod(0o600)
    try:
        yield
    finally:
        socket.unlink(missing_ok=True)
        await runner.cleanup()


def answered(gate: Gate, since: int) -> list[str]:
    """Return the messages of which a reply was delivered after so many rings.

    Who asks Flower for these alone never meets a reply that is half there, for which Flower waits a second. What was
    delivered before this process began is told to who has heard nothing of it.
    """
    return [message for ring, message in gate.answered if ring > since]


def status(gate: Gate) -> dict[str, dict[str, Any]]:
    """Return what is known of each silo that ever spoke."""
    return {
        name: seen.row(silo)
        | {
            "pending": int(pulls.current(gate.pulls, name) is not None),
            "spooling_bytes": spool.used(gate.spool, name),
        }
        for name, silo in sorted(gate.seen.silos.items())
    }
