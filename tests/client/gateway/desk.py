"""The hub's side of parcels, and what a silo and its SuperNode do with them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from urllib.parse import parse_qs, urlsplit

import numpy as np
from aiohttp import web
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fl_client import fleet, parcels
from fl_client.gateway import trip
from fl_client.parcels import Parcel

RUN, NODE = 7, 1001
ARRAYS = {"values": np.arange(700_000, dtype=np.float32)}


class Desk:
    """The hub's side of parcels: keeps what comes up to a limit, and hands out what was laid out."""

    def __init__(self, hub):
        self.held, self.laid_out, self.stop_after = b"", {}, None
        self.asked, self.status, self.takes_s = [], None, 0.0
        self.looked = lambda: None  # called when the hub is asked what it has
        self._others = hub.answer
        hub.respond = self.answer

    async def answer(self, request):
        where = urlsplit(request.path_qs)
        if not where.path.startswith(trip.PATH):
            return await self._others(request)
        query = {key: value[0] for key, value in parse_qs(where.query).items()}
        self.asked.append((request.method, where.path, query, dict(request.headers)))
        if self.status:
            return web.Response(status=self.status)
        if where.path == trip.CONTENT:
            return self._give(request, query)
        if request.method == "GET":
            self.looked()
        if request.method == "POST":
            await asyncio.sleep(self.takes_s)
            assert int(query["at"]) == len(self.held)
            await self._take(request)
            if self._whole_but_wrong(query["parcel"]):
                self.held = b""
                return web.Response(status=422)
        return web.json_response({"held": len(self.held)})

    async def _take(self, request):
        async for part in request.content.iter_any():
            self.held += part
            if self.stop_after is not None and len(self.held) >= self.stop_after:
                self.held, self.stop_after = self.held[: self.stop_after], None
                request.transport.abort()
                return

    def _whole_but_wrong(self, named):
        sha256, _, size = named.partition(":")
        held = self.held
        return len(held) == int(size) and hashlib.sha256(held).hexdigest() != sha256

    def _give(self, request, query):
        content = self.laid_out.get(query["parcel"])
        if content is None:
            return web.Response(status=404)
        said = request.headers.get("range", "bytes=0-")
        start = int(said.removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            return web.Response(status=416)
        return web.Response(status=206 if start else 200, body=content[start:])


def reply_naming(parcel: Parcel) -> RecordDict:
    said = {"metrics": MetricRecord({"loss": 1.0}), "parcel": ConfigRecord({"parcel": str(parcel)})}
    return RecordDict(said | {"facts": ConfigRecord({"json": json.dumps({"silo": "clinic-a"})})})


def push(clinic, reply):
    """Push a reply as the SuperNode does; return the statuses of its objects by kind."""
    taken = clinic.call(fleet.PUSH_MESSAGES, **reply.request)
    run = reply.request["messages_list"][0].metadata.run_id
    statuses = {}
    for name in taken.objects_to_push:
        back = clinic.call(
            fleet.PUSH_OBJECT, run_id=run, session_id=taken.session_id, object_id=name,
            object_content=reply.objects[name],
        )  # fmt: skip
        named = b":" in reply.objects[name] and b"parcel" in reply.objects[name]
        statuses["parcel" if named and b"ConfigRecord" in reply.objects[name] else name] = (
            back if isinstance(back, int) else 200
        )
    return statuses


def pushed(hub):
    found = [
        fleet.request(each.path, each.body) for each in hub.got if each.path == fleet.PUSH_OBJECT
    ]
    return [each.object_content for each in found]


def kept(clinic) -> tuple[Parcel, bytes]:
    parcel = parcels.keep(clinic.folder / parcels.OUTBOX, ARRAYS)
    return parcel, parcels.path(clinic.folder / parcels.OUTBOX, parcel).read_bytes()


def laid_out(desk, write):
    """Lay an adapter out; return it and the object of the message that names it."""
    from safetensors.numpy import save

    content = save(ARRAYS)
    parcel = Parcel(hashlib.sha256(content).hexdigest(), len(content))
    desk.laid_out[str(parcel)] = content
    objects = write(RecordDict({"parcel": ConfigRecord({"parcel": str(parcel)})})).objects
    (named,) = [each for each in objects.values() if str(parcel).encode() in each]
    return parcel, content, named


def pull(hub, clinic, content):
    answer = fleet.answering(
        fleet.PULL_OBJECT, object_found=True, object_available=True, object_content=content
    )
    hub.answers[fleet.PULL_OBJECT] = lambda _: (200, answer)
    return clinic.call(fleet.PULL_OBJECT, run_id=RUN, object_id="a" * 64)


def until(true):
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.01)
