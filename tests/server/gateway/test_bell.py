"""The bell that counts."""

from __future__ import annotations

import asyncio

from fl_server.gateway.bell import Bell


def test_a_ring_before_the_wait_counts_and_one_ring_wakes_all():
    async def run():
        bell = Bell()
        waiting = [asyncio.create_task(bell.wait(0, 10)) for _ in range(3)]
        await asyncio.sleep(0)
        bell.ring()
        woken = await asyncio.gather(*waiting)
        return woken, await bell.wait(0, 10), await bell.wait(1, 0.01), await bell.wait(1, 0)

    assert asyncio.run(run()) == ([1, 1, 1], 1, 1, 1)
