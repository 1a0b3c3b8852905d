"""From the spool to the SuperLink, once a reply is whole: at loopback speed, so that its push session never lapses."""

from __future__ import annotations

import asyncio
import logging

from fl_client import fleet, stock
from fl_client.config import ConfigError
from fl_server import roster
from fl_server.gateway import relay, replies, seen, spool
from fl_server.gateway.gate import Gate
from fl_server.gateway.replies import Push, Session

LOG = logging.getLogger("bhasha_fl.gateway")
WAIT_S = 20.0  # a silo is kept waiting at most so long, then it asks again
TRIES = 3
AT_ONCE = 2
DONE, OVER, LATER = 200, 403, 503


async def deliver(gate: Gate, session: Session) -> int:
    """Bring a whole reply to the SuperLink; return 200, 403 where its run is over, 503 to ask again."""
    task = gate.deliveries.get(session.id)
    if task is None:
        task = asyncio.get_running_loop().create_task(_deliver(gate, session))
        gate.deliveries[session.id] = task
        task.add_done_callback(lambda _: gate.deliveries.pop(session.id, None))
    done, _ = await asyncio.wait({task}, timeout=WAIT_S)
    return task.result() if done else LATER


async def _deliver(gate: Gate, session: Session) -> int:
    synced = asyncio.get_running_loop().run_in_executor(None, replies.sync, session)
    try:
        status = await _hand_over(gate, session)
        await synced
    except OSError as error:
        LOG.error("%s: a reply cannot be delivered: %s", session.silo, error)
        return LATER
    if status == DONE:
        spool.finish(gate.spool, session)
        gate.answered.append((gate.ready.count + 1, session.reply.answers))
        gate.ready.ring()
        size = sum(session.held.values())
        LOG.info("%s: a reply of run %d, %d bytes", session.silo, session.reply.run, size)
    if status == OVER:
        LOG.info("%s: run %d is over; its reply is dropped", session.silo, session.reply.run)
        spool.forget(gate.spool, session)
    if status != LATER:
        await asyncio.to_thread(replies.erase, session)
    return status


async def _hand_over(gate: Gate, session: Session) -> int:
    # Once a ServerApp has taken a reply, announcing it again asks for nothing, though objects may still be missing:
    # the push session from before this process or its SuperLink went down has to be served to its end.
    body = (session.folder / replies.REQUEST).read_bytes()
    for _ in range(TRIES):
        before = replies.opened(session)
        if before is not None:
            await _objects(gate, session, before)
        answer = await relay.send(gate.relay, session.silo, fleet.PUSH_MESSAGES, body)
        if answer.status != DONE:
            return OVER if answer.status == OVER else LATER
        taken = fleet.response(fleet.PUSH_MESSAGES, answer.body)
        wanted = list(dict.fromkeys(taken.objects_to_push))
        if not wanted:
            return DONE
        push = Push(taken.session_id, wanted)
        replies.open_(session, push)
        if await _objects(gate, session, push):
            return DONE
    return LATER


async def _objects(gate: Gate, session: Session, push: Push) -> bool:
    node, slots = seen.of(gate.seen, session.silo).node, asyncio.Semaphore(AT_ONCE)

    async def one(object_: str) -> bool:
        async with slots:
            content = await asyncio.to_thread((session.folder / object_).read_bytes)
            body = fleet.asking(
                fleet.PUSH_OBJECT,
                node={"node_id": node},
                run_id=session.reply.run,
                session_id=push.key,
                object_id=object_,
                object_content=content,
            )
            answer = await relay.send(gate.relay, session.silo, fleet.PUSH_OBJECT, body)
        return answer.status == DONE and fleet.response(fleet.PUSH_OBJECT, answer.body).stored

    return all(await asyncio.gather(*(one(each) for each in push.wanted)))


async def sweep(gate: Gate) -> None:
    """Deliver what is whole; drop what expired, and what is of an ejected silo or of a run that is over."""
    for session in spool.expired(gate.spool, gate.settings.spool_hours):
        LOG.warning("%s: a reply that stopped coming in is dropped", session.silo)
        await drop(gate, session)
    for silo in gate.seen.silos:
        updates = spool.updates(gate.spool.folder, silo)
        stock.expire(updates, gate.settings.spool_hours * 3600)
    for session in spool.waiting(gate.spool):
        node = seen.of(gate.seen, session.silo).node
        if ejected(gate, session.silo):
            await drop(gate, session)
        elif not session.missing:
            await deliver(gate, session)
        elif not await relay.goes_on(gate.relay, session.silo, node, session.reply.run):
            await drop(gate, session)


def ejected(gate: Gate, silo: str) -> bool:
    """Return whether a silo was put off the roster."""
    try:
        return roster.one(gate.folder, silo).state == "ejected"
    except ConfigError:  # a damaged entry lets nobody in, but what came before may stay
        return False


async def drop(gate: Gate, session: Session) -> None:
    """Let go of a reply, on disk too."""
    spool.forget(gate.spool, session)
    await asyncio.to_thread(replies.erase, session)
