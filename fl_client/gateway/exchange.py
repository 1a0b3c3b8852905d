"""What happens to each of Flower's calls on its way to the hub and back."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fl_client import fleet
from fl_client import parcels as files
from fl_client.gateway import contents, link, parcels, runs, trip
from fl_client.gateway.egress import Meter
from fl_client.gateway.link import Answer, Call, Link, Patience
from fl_client.gateway.parcels import Trips
from fl_client.gateway.runs import Away, Book, Refused
from fl_client.gateway.trip import Trip
from fl_client.signed import Signed

# The SuperNode waits 30 s for an answer, 5 s for that to a heartbeat.
PATIENT, SHORT = Patience(25.0, 28.0), Patience(3.0, 4.0)
AHEAD = 16  # objects of a message that are fetched ahead; large arrays travel as a parcel
SHORT_PATHS = {fleet.HEARTBEAT, fleet.DEACTIVATE, fleet.UNREGISTER}


class Way(NamedTuple):
    """The way out: what is known of runs, the line, and how much has left."""

    book: Book
    line: Link
    meter: Meter
    trips: Trips
    ahead: dict[str, Answer]  # objects of the message that the SuperNode was just given
    given: dict[str, fleet.Pulled]  # that message itself, as "message"


async def answer(way: Way, path: str, body: bytes) -> Answer:
    """Return the answer to a call; raises ``Refused``, ``Away``, or ``ValueError`` on what cannot be read."""
    return await CALLS.get(path, _pass_on)(way, path, body)


async def _pass_on(way: Way, path: str, body: bytes) -> Answer:
    return await _send(way, path, body, _study(way, path, body))


def _study(way: Way, path: str, body: bytes) -> str:
    """Return the name of the study that a call is about, as far as that is known."""
    try:
        run = getattr(fleet.request(path, body), "run_id", 0)
    except ValueError:
        return ""
    return way.book.studies[run].study.name if run in way.book.studies else ""


async def _send(way: Way, path: str, body: bytes, study: str = "", round: str = "") -> Answer:
    call = Call(path, body, study=study, round=round, back=fleet.PATHS[path].back)
    return await link.send(way.line, call, SHORT if path in SHORT_PATHS else PATIENT)


async def _pull_messages(way: Way, path: str, body: bytes) -> Answer:
    found = await _send(way, path, body)
    pulled = fleet.pulled(fleet.response(path, found.body)) if found.status == 200 else None
    if pulled is not None:
        await runs.study(way.book, way.line, pulled.run)
        way.given["message"] = pulled
        await _look_ahead(way, fleet.request(path, body).node.node_id, pulled)
    return found


async def _look_ahead(way: Way, node: int, pulled: fleet.Pulled) -> None:
    """Fetch what a message consists of before the SuperNode has it.

    The SuperNode starts the task first and fetches then: a task that looks before all is there waits for a second.
    """
    way.ahead.clear()

    async def one(name: str) -> None:
        asked = {"node": {"node_id": node}, "run_id": pulled.run, "object_id": name}
        try:
            found = await _pull_object(
                way, fleet.PULL_OBJECT, fleet.asking(fleet.PULL_OBJECT, **asked)
            )
        except Away:  # the SuperNode asks itself
            return
        if found.status == 200 and not fleet.coming(found.body):
            way.ahead[name] = found

    if len(pulled.objects) <= AHEAD:
        await asyncio.gather(*(one(name) for name in pulled.objects))


async def _about_run(way: Way, path: str, body: bytes) -> Answer:
    """Let the SuperNode have what the hub says of a run, or its bundle, only where it is what was signed."""
    check, unreadable = CHECKS[path]
    run = fleet.request(path, body).run_id
    signed = await runs.study(way.book, way.line, run)
    found = await _send(way, path, body, signed.study.name)
    if found.status == 200:
        try:
            code = check(fleet.response(path, found.body), run, signed)
        except ValueError:
            code = unreadable
        if code:
            raise Refused(run, code)
    return found


async def _push_messages(way: Way, path: str, body: bytes) -> Answer:
    asked = fleet.request(path, body)
    reply = fleet.reply(asked)
    signed = await runs.study(way.book, way.line, reply.run)
    said = asked.messages_list[0]
    if said.metadata.message_type not in runs.rules(way.book).egress.kinds:
        raise Refused(reply.run, "kind_not_allowed")
    if said.content.ByteSize():  # it belongs into objects, which are looked at
        raise Refused(reply.run, "content_not_allowed")
    renamed = contents.quiet_reply(asked)
    body = asked.SerializeToString(deterministic=True) if renamed else body
    found = await _send(way, path, body, signed.study.name, reply.round)
    if found.status != 200:
        return found
    taken = fleet.response(path, found.body)
    way.meter.announce(taken.session_id, reply.run, reply.round)
    if not renamed:
        return found
    old = {new: old for old, new in renamed.items()}
    wanted = [old.get(name, name) for name in taken.objects_to_push]
    back = fleet.answering(path, objects_to_push=wanted, session_id=taken.session_id)
    return Answer(200, back)


async def _push_object(way: Way, path: str, body: bytes) -> Answer:
    asked = fleet.request(path, body)
    piece = fleet.piece(asked)
    signed = await runs.study(way.book, way.line, piece.run)
    most = runs.rules(way.book).egress
    try:
        content = contents.quiet(piece.content)
        fits, offer = contents.fits(content, most), contents.offer(content)
    except ValueError:
        fits, offer = False, None
    if not fits:
        raise Refused(piece.run, "content_not_allowed")
    if content != piece.content:
        asked.object_content = content
        asked.object_id = hashlib.sha256(content).hexdigest()
        body = asked.SerializeToString(deterministic=True)
    if not way.meter.fits(piece.session, piece.run, asked.object_id, len(content), most):
        raise Refused(piece.run, "egress_too_large")
    round = way.meter.round_of(piece.session)
    if offer:
        parcel = offer.parcel
        if not way.meter.fits(piece.session, piece.run, parcel.sha256, parcel.bytes, most):
            raise Refused(piece.run, "egress_too_large")
        update = trip.out(way.book, piece.run, parcel, round)
        await parcels.bring(way.trips, way.line, update)
    return await _send(way, path, body, signed.study.name, round)


async def _give_object(way: Way, path: str, body: bytes) -> Answer:
    """Let the SuperNode have an object: the one that was fetched ahead, once, or what the hub says now."""
    try:
        held = way.ahead.pop(fleet.request(path, body).object_id, None)
    except ValueError:
        held = None
    return held or await _pull_object(way, path, body)


async def _pull_object(way: Way, path: str, body: bytes) -> Answer:
    """Let the SuperNode have an object once the parcel that it names, if it names one, is in the inbox."""
    study = _study(way, path, body)
    found = await _send(way, path, body, study)
    if found.status != 200 or len(found.body) > fleet.SMALL:
        return found
    try:
        run = fleet.request(path, body).run_id
        offer = contents.offer(fleet.response(path, found.body).object_content)
    except ValueError:  # a hub that is still writing it, or that talks nonsense: Flower tells
        return found
    if offer:
        adapter = Trip(run, offer.parcel, study, "", way.book.folder / files.INBOX)
        await parcels.fetch(way.trips, way.line, adapter, offer.delta)
    return found


CHECKS: dict[str, tuple[Callable[[Any, int, Signed], str], str]] = {
    fleet.GET_RUN: (runs.check_run, "configuration_differs"),
    fleet.GET_FAB: (lambda found, run, signed: runs.check_bundle(found, signed), "bundle_differs"),
}
CALLS: dict[str, Callable[[Way, str, bytes], Awaitable[Answer]]] = {
    fleet.PULL_MESSAGES: _pull_messages,
    fleet.GET_RUN: _about_run,
    fleet.GET_FAB: _about_run,
    fleet.PULL_OBJECT: _give_object,
    fleet.PUSH_MESSAGES: _push_messages,
    fleet.PUSH_OBJECT: _push_object,
}
