"""Parcels at the public port: a silo's update comes in piece by piece, an adapter that was laid out goes out.

What has arrived stays on disk whatever happens to the line. ``spool/NAME/parcels/`` holds what a silo brought,
``parcels/`` what the studies lay out; both are named by their hash, and only who was told a name can ask for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from fl_client import memory, parcels, stock
from fl_client.parcels import Parcel
from fl_server.freight import LAID_OUT
from fl_server.gateway import pulls, relay, seen, spool
from fl_server.gateway.gate import Call, Gate, Route
from fl_server.gateway.limits import Refused
from fl_server.gateway.relay import Answer
from fl_server.gateway.sink import Digest, Sink

LOG = logging.getLogger("bhasha_fl.gateway")
JSON, BYTES = "application/json", "application/octet-stream"
MOST = 1 << 40  # a silo's quota is what limits it
PIECE = 1 << 20


class Asked(NamedTuple):
    """What a silo asks about: a run, a parcel, and where its piece begins."""

    run: int
    parcel: Parcel
    at: int


def _asked(call: Call) -> Asked:
    try:
        run, at = int(call.query["run"]), int(call.query.get("at", "0"))
        asked = Asked(run, parcels.parse(call.query["parcel"]), at)
    except (KeyError, ValueError):
        raise Refused(400) from None
    if not 0 <= run < 1 << 64 or not 0 <= at <= asked.parcel.bytes:
        raise Refused(400)
    return asked


async def held(gate: Gate, call: Call) -> Answer:
    """Answer how many bytes of an update are here; 503 while the last of them are looked at."""
    asked, file = await _update(gate, call)
    uploads = gate.spool.uploads
    busy = any(each.parent == file.parent for each in uploads)
    size = standing(file, asked.parcel, gate.settings.spool_bytes, busy)
    if size is not None:
        return _held(size)
    if file in uploads:
        raise Refused(503)
    with _claimed(gate, file, asked.parcel):
        return _held(await asyncio.to_thread(kept, file, asked.parcel))


def standing(file: Path, parcel: Parcel, quota: int, busy: bool = False) -> int | None:
    """Return how many bytes of an update are here; None where all came, of which ``kept`` tells.

    Older updates of the silo wait for a commit as long as all fit in half its quota; the last may in any case. While
    the silo is ``busy`` bringing one no other is removed: what a line writes to must not go.
    """
    if file.exists():
        return None
    size = _size(file)
    if not size and not busy:
        stock.prune(file.parent, 1, room=quota // 2 - parcel.bytes)
    return size if size < parcel.bytes else None


def _size(file: Path) -> int:
    part = memory.part(file)
    return part.stat().st_size if part.exists() else 0


async def take(gate: Gate, call: Call) -> Answer:
    """Take an update from where it stands to its end; 409 where it stands elsewhere, 422 where the hash is wrong.

    507 where it has no room: what open lines still bring counts, so a silo's updates come one after the other if they
    do not fit together.
    """
    asked, file = await _update(gate, call)
    if file.exists():
        return _held(await asyncio.to_thread(kept, file, asked.parcel))
    if asked.parcel.bytes > gate.settings.spool_bytes:
        LOG.error("%s brings %d bytes, over spool_bytes in hub.toml", call.silo, asked.parcel.bytes)
        raise Refused(507)
    if _size(file) != asked.at:
        raise Refused(409)
    try:
        with _claimed(gate, file, asked.parcel) as mine:
            if not spool.room(gate.spool, call.silo, 0):  # it counts itself by now
                LOG.error("%s: no room for %d bytes more", call.silo, asked.parcel.bytes - asked.at)
                raise Refused(507)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Without a buffer: what it held would come after what a newer line has brought since.
            with memory.part(file).open("ab", buffering=0) as stream:
                digest = await asyncio.to_thread(begun, memory.part(file), asked.at)
                await _write(call, Sink(stream, digest, mine), asked, mine)
                size = await asyncio.to_thread(kept, file, asked.parcel, digest.hexdigest())
    except OSError as error:
        LOG.error("%s: an update cannot be kept: %s", call.silo, error.strerror)
        raise Refused(507) from error
    return _held(size) if size else Answer(422)


@contextmanager
def _claimed(gate: Gate, file: Path, parcel: Parcel) -> Iterator[Callable[[], bool]]:
    """Write an update, until a newer line of its silo does; give what says whether it is still this one's."""
    uploads = gate.spool.uploads
    mine = uploads[file] = spool.Upload(parcel.bytes)
    try:
        yield lambda: uploads.get(file) is mine
    finally:
        if uploads.get(file) is mine:
            del uploads[file]


async def _update(gate: Gate, call: Call) -> tuple[Asked, Path]:
    """Return which update a silo speaks of and where it lies; raises ``Refused`` where its run is over."""
    asked = _asked(call)
    node = seen.of(gate.seen, call.silo).node
    if not node or not await relay.goes_on(gate.relay, call.silo, node, asked.run):
        raise Refused(403)
    return asked, parcels.path(spool.updates(gate.spool.folder, call.silo), asked.parcel)


def begun(part: Path, size: int) -> Digest:
    """Return the hash, as far as it goes, of what came before a cut."""
    digest, left = hashlib.sha256(), size
    with part.open("rb") as stream:
        while left and (piece := stream.read(min(PIECE, left))):
            digest.update(piece)
            left -= len(piece)
    return digest


async def _write(call: Call, sink: Sink, asked: Asked, mine: Callable[[], bool]) -> None:
    stands = asked.at
    try:
        async for piece in call.parts:
            stands += len(piece)
            if not mine():  # the silo came back before this line was dead
                raise Refused(409)
            if stands > asked.parcel.bytes:
                raise Refused(413)
            await sink.add(piece)
    finally:
        await sink.end()


def kept(file: Path, parcel: Parcel, sha256: str = "") -> int:
    """Return how much of a parcel is here, durable once it is whole; 0 where it is not what it was called.

    Its hash may be known from while it came in.
    """
    if file.exists():
        memory.sync(file)  # the gateway that put it there may have been killed before this
        return parcel.bytes
    part = memory.part(file)
    size = part.stat().st_size
    if size < parcel.bytes:
        return size
    right = sha256 == parcel.sha256 if sha256 else parcels.whole(part, parcel)
    if size > parcel.bytes or not right:
        part.unlink()
        return 0
    memory.complete(file)
    return size


async def give(gate: Gate, call: Call) -> Answer:
    """Answer with an adapter that was laid out, from any byte on; 404 where it is gone."""
    asked = _asked(call)
    if not pulls.works_on(gate.pulls, call.silo, asked.run):
        raise Refused(403)
    file = parcels.path(gate.folder / LAID_OUT, asked.parcel)
    return Answer(200, media=BYTES, file=file) if file.exists() else Answer(404)


def _held(size: int) -> Answer:
    return Answer(200, json.dumps({"held": size}).encode(), JSON)


ROUTES = {
    ("GET", "/v1/silo/parcel"): Route(held),
    ("POST", "/v1/silo/parcel"): Route(take, MOST, streams=True),
    ("GET", "/v1/silo/parcel/content"): Route(give),
}
