"""Replies of a silo: announced, brought object by object, and whole only once the SuperLink has them."""

from __future__ import annotations

import asyncio
import logging

from fl_client import fleet
from fl_server.gateway import delivery, relay, replies, spool
from fl_server.gateway.gate import Call, Gate
from fl_server.gateway.relay import Answer

LOG = logging.getLogger("bhasha_fl.gateway")


async def announce(gate: Gate, call: Call) -> Answer:
    """Take the announcement of a reply, and ask for those of its objects that are not here yet."""
    try:
        reply = fleet.reply(call.asked)
    except ValueError:
        return Answer(400)
    if not await relay.goes_on(gate.relay, call.silo, call.node, reply.run):
        return Answer(403)
    try:
        session = spool.announce(gate.spool, call.silo, reply, call.body)
    except OSError as error:
        LOG.error("%s: a reply cannot be kept: %s", call.silo, error.strerror)
        return Answer(507)
    wanted = session.missing if session else []
    status = await delivery.deliver(gate, session) if session and not wanted else 200
    if status != 200:
        return Answer(status)
    key = replies.name(call.silo, reply)
    said = fleet.answering(
        call.path, results={reply.message: 0}, objects_to_push=wanted, session_id=key
    )
    return Answer(200, said)


async def bring(gate: Gate, call: Call) -> Answer:
    """Keep an object of an announced reply; the last one is answered once the whole reply was delivered."""
    piece = fleet.piece(call.asked)
    session = spool.find(gate.spool, call.silo, piece.session)
    if session is None:
        return _stored(spool.delivered(gate.spool, call.silo, piece.session))
    if session.reply.run != piece.run or piece.object not in session.reply.objects:
        return _stored(False)
    if not await relay.goes_on(gate.relay, call.silo, call.node, piece.run):
        await delivery.drop(gate, session)
        return Answer(403)
    if piece.object not in session.held:
        try:
            right = await asyncio.to_thread(replies.store, session, piece.object, piece.content)
        except OSError as error:
            LOG.error("%s: an object cannot be kept: %s", call.silo, error.strerror)
            return Answer(507)
        if not right:
            return _stored(False)
        session.held[piece.object] = len(piece.content)
    if session.missing:
        return _stored(True)
    status = await delivery.deliver(gate, session)
    return _stored(True) if status == 200 else Answer(status)


def _stored(stored: bool) -> Answer:
    return Answer(200, fleet.answering(fleet.PUSH_OBJECT, stored=stored))
