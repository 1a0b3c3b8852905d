"""One trial: a short study that is led through faults on machines of its own, in virtual time."""

from __future__ import annotations

from functools import cache

from fl_server.simulation.faults.calls import interposed
from fl_server.simulation.faults.folder import folder
from fl_server.simulation.faults.outcome import Faults, Trial
from fl_server.simulation.faults.study import Shape
from fl_server.simulation.faults.world import World


@cache
def calm(shape: Shape) -> Trial:
    """Return the study on the same machines without any fault."""
    return play(shape, Faults(), 0)


def play(shape: Shape, faults: Faults, seed: int) -> Trial:
    """Return what comes of a study with these faults; the seed says how torn, lost and delayed things are."""
    with folder() as root:
        world = World(shape, faults, seed, root)
        with interposed([*world.disks.values()], world.network):
            state = world.studied()
        return world.result(state)
