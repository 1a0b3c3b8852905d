"""Flower's view of a silo that is dark: its node stays online for as long as the silo is on the roster.

Flower gives up the messages of a node that it has not heard for half an hour, and a power cut takes longer than that.
How long a silo is waited for is the study's to say; whether it is there is told by its last contact alone.
"""

from __future__ import annotations

from fl_server.gateway import delivery, relay, seen
from fl_server.gateway.gate import Gate


async def keep(gate: Gate) -> None:
    """Tell Flower that the nodes of dark silos are online; those that are there tell it themselves."""
    for name, silo in list(gate.seen.silos.items()):
        if silo.node and not seen.row(silo)["connected"] and not delivery.ejected(gate, name):
            await relay.heartbeat(gate.relay, name, silo.node)
