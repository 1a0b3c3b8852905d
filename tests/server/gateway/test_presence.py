"""Flower's view of silos that are dark."""

from __future__ import annotations

import asyncio
import time

import pytest

from fl_client import fleet
from fl_server import roster
from fl_server.gateway import presence, seen, server


def heard(gate, name, seconds_ago):
    seen.note(gate.seen, name, contact=time.time() - seconds_ago)


@pytest.mark.parametrize("goodbye", [False, True])
def test_flower_hears_of_a_silo_that_is_dark_for_hours(goodbye, house):
    async def run():
        async with house() as h:
            silo = h.silo("one")
            node = await silo.activate()
            if goodbye:
                await silo.call(fleet.DEACTIVATE, node_id=node)
            heard(h.gate, "one", 7200)
            h.superlink.online.clear()
            await presence.keep(h.gate)
            return node, set(h.superlink.online), seen.row(h.gate.seen.silos["one"])["connected"]

    node, online, connected = asyncio.run(run())
    assert online == {node}
    assert not connected  # to the rounds it is as dark as it was


@pytest.mark.parametrize("why", ["it is there", "it was ejected"])
def test_nobody_speaks_for_a_silo_that_does_itself_or_that_is_off_the_roster(why, house, hub):
    async def run():
        async with house() as h:
            await h.silo("one").activate()
            if why == "it was ejected":
                heard(h.gate, "one", 7200)
                roster.eject(hub, "one")
            h.superlink.calls.clear()
            await presence.keep(h.gate)
            return h.superlink.calls

    assert asyncio.run(run()) == []


def test_a_gateway_keeps_dark_silos_present_by_itself(house, monkeypatch):
    monkeypatch.setattr(server, "PRESENT_S", 0.05)

    async def run():
        async with house() as h:
            node = await h.silo("one").activate()
            heard(h.gate, "one", 7200)
            h.superlink.online.clear()
            for _ in range(100):
                await asyncio.sleep(0.02)
                if h.superlink.online:
                    break
            return node, h.superlink.online

    node, online = asyncio.run(run())
    assert online == {node}
