"""What a message consists of is fetched before the SuperNode has it.

The SuperNode starts the task first and fetches then: a task that looks before all is there waits for a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from fl_client import fleet
from fl_client.gateway.link import Answer
from fl_client.gateway.runs import Away

MOST = 16  # objects of a message; large arrays travel as a parcel
Held = dict[str, Answer]  # by name


async def fetch(
    held: Held, names: Collection[str], pull: Callable[[str], Awaitable[Answer]]
) -> None:
    """Hold the objects of a message that the hub has by now, in place of those of the one before."""
    held.clear()

    async def one(name: str) -> None:
        try:
            found = await pull(name)
        except Away:  # the SuperNode asks itself
            return
        if found.status == 200 and not fleet.coming(found.body):
            held[name] = found

    if len(names) <= MOST:
        await asyncio.gather(*(one(name) for name in names))
