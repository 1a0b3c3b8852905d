"""What happens to each of Flower's calls on its way to the hub and back."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from fl_client import fleet
from fl_client import parcels as files
from fl_client.gateway import ahead, contents, leaves, link, parcels, runs, withheld
from fl_client.gateway.link import Answer, Call, Patience
from fl_client.gateway.runs import Refused
from fl_client.gateway.trip import Trip
from fl_client.gateway.way import Way
from fl_client.signed import Signed

LOG = logging.getLogger("bhasha_fl.gateway")
# The SuperNode waits 30 s for an answer, 5 s for that to a heartbeat.
PATIENT, SHORT = Patience(25.0, 28.0), Patience(3.0, 4.0)
SHORT_PATHS = {fleet.HEARTBEAT, fleet.DEACTIVATE, fleet.UNREGISTER}


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
        way.given.note(pulled)
        said = {"node": {"node_id": fleet.request(path, body).node.node_id}, "run_id": pulled.run}

        async def pull(name: str) -> Answer:
            asked = fleet.asking(fleet.PULL_OBJECT, **said, object_id=name)
            return await _pull_object(way, fleet.PULL_OBJECT, asked)

        await ahead.fetch(way.ahead, pulled.objects, pull)
    return found


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
    announced, renamed = leaves.reply(way, asked, reply.run)
    body = asked.SerializeToString(deterministic=True)
    found = await _send(way, path, body, signed.study.name, reply.round)
    if found.status != 200:
        return found
    taken = fleet.response(path, found.body)
    way.announced.note(taken.session_id, announced)
    way.given.answered(reply.answers)
    if not renamed:
        return found
    old = {new: old for old, new in renamed.items()}
    wanted = [old.get(name, name) for name in taken.objects_to_push]
    back = fleet.answering(path, objects_to_push=wanted, session_id=taken.session_id)
    return Answer(200, back)


async def _push_object(way: Way, path: str, body: bytes) -> Answer:
    asked = fleet.request(path, body)
    signed = await runs.study(way.book, way.line, asked.run_id)
    announced = leaves.find(way, asked)
    send = partial(_send, way, study=signed.study.name, round=announced.reply.round)
    try:
        return await send(path, await leaves.object_(way, asked, announced))
    except Refused as no:
        if no.code not in withheld.CODES:
            raise
        LOG.warning("refused: %s", no)
        return await withheld.tell(send, announced, no.code)


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
