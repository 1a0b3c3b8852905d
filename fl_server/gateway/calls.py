"""Flower's twelve calls of a silo, in spool mode: what is answered here, and what goes on to the SuperLink."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fl_client import fleet
from fl_server.gateway import pulls, pushes, relay, seen
from fl_server.gateway.gate import Call, Gate
from fl_server.gateway.relay import Answer

LOG = logging.getLogger("bhasha_fl.gateway")
POLL_S = 2.0  # between two questions to the SuperLink when nothing rings: one costs it about 5 ms
COMING_S, AGAIN_S = (
    5.0,
    0.05,
)  # how long an object that the hub is still writing is waited for, and how often
UNREADABLE, ANEW, REFUSED, LATER = Answer(400), Answer(401), Answer(403), Answer(503)


async def answer(gate: Gate, call: Call) -> Answer:
    """Answer a call; 400 where it cannot be read, 401 before activation, 403 where it speaks for another node."""
    try:
        asked = fleet.request(call.path, call.body)
    except ValueError:
        return UNREADABLE
    node, ids = seen.of(gate.seen, call.silo).node, fleet.node_ids(asked)
    if ids and not node:
        return ANEW
    if ids - {node}:
        LOG.warning("%s is node %d and speaks for %s", call.silo, node, ids - {node})
        return REFUSED
    return await CALLS[call.path](gate, call._replace(asked=asked, node=node))


async def register(gate: Gate, call: Call) -> Answer:
    """Say yes: what registers is the silo's key at the hub, when it activates."""
    return Answer(200, fleet.answering(fleet.REGISTER, node_id=call.node))


async def activate(gate: Gate, call: Call) -> Answer:
    """Make the silo's node active, the same one for life."""
    known = seen.of(gate.seen, call.silo)
    node = await relay.fly(gate.relay, relay.activate(gate.relay, call.silo, known.node))
    if not node:
        return LATER
    known = seen.of(gate.seen, call.silo)
    if node != known.node:  # what is kept was for a node of a SuperLink that is no more
        pulls.drop(gate.pulls, call.silo)
    seen.note(gate.seen, call.silo, node=node, left=False, activations=known.activations + 1)
    LOG.info("%s is here, node %d", call.silo, node)
    return Answer(200, fleet.answering(fleet.ACTIVATE, node_id=node))


async def leave(gate: Gate, call: Call) -> Answer:
    """Say yes to deactivate and unregister, and note that the silo said goodbye; its node stays."""
    seen.note(gate.seen, call.silo, left=True)
    return Answer(200)


async def heartbeat(gate: Gate, call: Call) -> Answer:
    """Pass a heartbeat on with an interval that a bad line does not break."""
    status = await relay.heartbeat(gate.relay, call.silo, call.node)
    if status == relay.UNKNOWN:
        return _forgotten(gate, call)
    if status != relay.ONLINE:
        return LATER
    return Answer(200, fleet.answering(fleet.HEARTBEAT, success=True))


def _forgotten(gate: Gate, call: Call) -> Answer:
    """Say 401: the SuperLink lost its database, so the silo has to activate again; until then it is not there."""
    if not seen.of(gate.seen, call.silo).left:
        LOG.warning("Flower does not know the node of %s any more; it has to start anew", call.silo)
        seen.note(gate.seen, call.silo, left=True)
    return ANEW


async def pull_messages(gate: Gate, call: Call) -> Answer:
    """Answer with a message as soon as there is one, or empty when the time to hold is over or a newer call is here."""
    loop = asyncio.get_running_loop()
    until = loop.time() + gate.settings.hold_s
    mine = gate.pulls.latest[call.silo] = gate.pulls.latest.get(call.silo, 0) + 1
    while True:
        heard = gate.kicks.count
        found = await relay.fly(gate.relay, _next(gate, call))
        if not call.admitted():
            return REFUSED
        left = until - loop.time()
        if found is not None or left <= 0 or gate.pulls.latest[call.silo] != mine:
            return found or Answer(200)
        await gate.kicks.wait(heard, min(left, POLL_S))


async def _next(gate: Gate, call: Call) -> Answer | None:
    async with pulls.turn(gate.pulls, call.silo):
        kept = pulls.current(gate.pulls, call.silo)
        if kept is None:
            body = fleet.asking(fleet.PULL_MESSAGES, node={"node_id": call.node})
            answer = await relay.send(gate.relay, call.silo, fleet.PULL_MESSAGES, body)
            if answer.status == relay.UNKNOWN:
                return _forgotten(gate, call)
            kept = pulls.keep(gate.pulls, call.silo, answer.body) if answer.status == 200 else None
    return Answer(200, kept.body) if kept else None


async def about_run(gate: Gate, call: Call) -> Answer:
    """Pass on a question about the run whose message the silo was given."""
    if not pulls.works_on(gate.pulls, call.silo, call.asked.run_id):
        return REFUSED
    return await _forward(gate, call)


async def pull_object(gate: Gate, call: Call) -> Answer:
    """Pass on an object of the message that the silo was given; wait a little for one that is just being written."""
    kept = pulls.current(gate.pulls, call.silo)
    if kept is None or call.asked.object_id not in kept.said.objects:
        return REFUSED
    loop = asyncio.get_running_loop()
    until = loop.time() + COMING_S
    while True:
        found = await _forward(gate, call)
        if found.status != 200 or not fleet.coming(found.body) or loop.time() > until:
            return found
        await asyncio.sleep(AGAIN_S)


async def confirm(gate: Gate, call: Call) -> Answer:
    """Pass on that the silo has the message it was given, and stop handing it out."""
    kept = pulls.current(gate.pulls, call.silo)
    if kept is None or call.asked.message_object_id != kept.said.message:
        return Answer(200)  # confirmed before; the answer was lost
    found = await _forward(gate, call)
    if found.status == 200:
        pulls.drop(gate.pulls, call.silo)
    return found


async def _forward(gate: Gate, call: Call) -> Answer:
    found = await relay.send(gate.relay, call.silo, call.path, call.body)
    if found.status == 403:  # the run is over
        pulls.drop(gate.pulls, call.silo, call.asked.run_id)
    return found if found.status in (200, 403) else LATER


CALLS: dict[str, Callable[[Gate, Call], Awaitable[Answer]]] = {
    fleet.REGISTER: register,
    fleet.ACTIVATE: activate,
    fleet.DEACTIVATE: leave,
    fleet.UNREGISTER: leave,
    fleet.HEARTBEAT: heartbeat,
    fleet.PULL_MESSAGES: pull_messages,
    fleet.PUSH_MESSAGES: pushes.announce,
    fleet.GET_RUN: about_run,
    fleet.GET_FAB: about_run,
    fleet.PULL_OBJECT: pull_object,
    fleet.PUSH_OBJECT: pushes.bring,
    fleet.CONFIRM: confirm,
}
