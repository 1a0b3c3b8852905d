"""One trial: a short study that is led through faults on machines of its own, in virtual time."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from fl_server import buffer, rounds
from fl_server import run as runs
from fl_server.journal import State
from fl_server.record import Line
from fl_server.run import Run
from fl_server.simulation.faults.calls import interposed
from fl_server.simulation.faults.outcome import Faults, Trial
from fl_server.simulation.faults.study import Shape
from fl_server.simulation.faults.superlink import Absent
from fl_server.simulation.faults.world import World

MEMORY = "/dev/shm"  # where real files cost little


@lru_cache(maxsize=256)  # each shape, and the latest of those in which silos were away
def ideal(shape: Shape, absent: Absent = frozenset()) -> Trial:
    """Return the same study without any fault, in which some silos are not asked in some rounds."""
    return play(shape, Faults(), 0, absent)


def replayed(shape: Shape, lines: Sequence[Line]) -> Trial:
    """Return what comes of a buffered study without faults in which updates arrive in the order of these lines."""

    def again(run: Run) -> State:
        rule = run.schedule.buffer
        if rule is None:
            raise AssertionError(f"{shape.schedule} is not buffered")
        return buffer.replay(run, runs.first(run), rule, lines[1:])

    return play(shape, Faults(), 0, going=again)


def _rounds(run: Run) -> State:
    return rounds.run(run)[1]


def play(
    shape: Shape,
    faults: Faults,
    seed: int,
    absent: Absent = frozenset(),
    going: Callable[[Run], State] = _rounds,
) -> Trial:
    """Return what comes of a study with these faults; the seed says how torn, lost and delayed things are."""
    there = MEMORY if os.access(MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="faults-", dir=there) as root, _quiet():
        world = World(shape, faults, seed, absent, Path(root))
        with interposed([*world.disks.values()], world.network):
            state = world.studied(going)
        return world.result(state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep everyone from warning of what happens in a trial alone."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
