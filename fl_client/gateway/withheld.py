"""A reply that does not leave, though its run goes on: the hub is given its code in its place.

A refusal of the run would hold for good. This one is an answer like any other: whoever waits for it hears of it at
once, and asks again the next time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fl_client import fleet
from fl_client.gateway import contents
from fl_client.gateway.announced import Announced
from fl_client.gateway.link import AWAY, Answer

CODES = {"egress_too_large", "parcel_missing"}  # they say nothing of the next reply
Send = Callable[[str, bytes], Awaitable[Answer]]


async def tell(send: Send, announced: Announced, code: str) -> Answer:
    """Return 403 once the hub has the code, which makes the SuperNode drop its reply; else what makes it ask again."""
    request, objects = contents.fault(announced.request, code)
    found = await send(fleet.PUSH_MESSAGES, request.SerializeToString(deterministic=True))
    if found.status != 200:
        return found
    taken = fleet.response(fleet.PUSH_MESSAGES, found.body)
    for name in [name for name in objects if name in taken.objects_to_push]:
        body = fleet.asking(
            fleet.PUSH_OBJECT,
            node={"node_id": request.node.node_id},
            run_id=announced.reply.run,
            session_id=taken.session_id,
            object_id=name,
            object_content=objects[name],
        )
        found = await send(fleet.PUSH_OBJECT, body)
        if found.status != 200:
            return found
        if not fleet.response(fleet.PUSH_OBJECT, found.body).stored:
            return Answer(AWAY)
    return Answer(403)
