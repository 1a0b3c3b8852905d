"""A silo's worker with NumPy in Torch's place: what surrounds the steps is what a real silo does and keeps.

Its memory, its step checkpoints, what it sends and its outbox are written by the real functions, in the real order.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fl_client import checkpoint, memory, outbox, update
from fl_client.messages import Order
from fl_client.parcels import OUTBOX
from fl_client.site import Place
from fl_client.workers import Job, Result, Work
from fl_server.simulation.faults import study as studies
from strategies import adapter as algebra
from strategies.adapter import Adapter
from tasks.task import Site

INTERVAL = 2  # steps from one checkpoint to the next
COUNT = "private/rounds"  # what a silo keeps at home: how many rounds it has trained


class Step(NamedTuple):
    """One step that was done, by what it belongs to."""

    silo: str
    round: int
    base: str
    number: int


def home(folder: Path) -> Path:
    """Return where a silo keeps what it remembers of its study."""
    return folder / "studies" / "tried"


def answer(
    kind: str, silo: str, folder: Path, shape: studies.Shape, order: Order, received: Adapter
) -> Iterator[Step | Result]:
    """Yield each step that is done for a message of this kind, and at last the answer; raises ``Fault``."""
    if kind == "train.second":
        yield _second(silo, folder, shape, order, received)
    else:
        yield from _trains(silo, folder, shape, order, received)


def _trains(
    silo: str, folder: Path, shape: studies.Shape, order: Order, received: Adapter
) -> Iterator[Step | Result]:
    """Yield each step of a round, and the answer; no step is done where that is in the outbox."""
    own = studies.study(shape)
    key = outbox.key(Job(own, Place(silo=silo), order, received))
    result = outbox.find(folder / OUTBOX, key)
    if result is None:
        before = memory.agreed(home(folder), order.turn, order.lost)
        work = Work(own, Site(silo, (), (), ()), home(folder), before, order, received)
        start = studies.run(shape).start | received
        now = yield from _trained(work, start)
        result = outbox.keep(folder / OUTBOX, key, _ended(work, shape, start, now), lambda _: None)
    yield result


def _second(
    silo: str, folder: Path, shape: studies.Shape, order: Order, received: Adapter
) -> Result:
    """Return the answer to the second pass of a round, from what the first left on disk."""
    site = Site(silo, (), (), ())
    work = Work(studies.study(shape), site, home(folder), {}, order, received)
    return outbox.keep(folder / OUTBOX, "", update.second(work), lambda _: None)


def _trained(work: Work, start: Adapter) -> Generator[Step, None, Adapter]:
    """Yield each step as it is done, on from the last checkpoint; return the adapter after the last."""
    name, number, base = work.site.name, work.order.turn, algebra.sha256(start)
    key = checkpoint.round_key(work.study, number, work.received)
    keeper = checkpoint.keeper(work.home, "round", key, 1.0)
    if keeper is None:
        raise AssertionError("steps are kept every second")
    held = checkpoint.recall(keeper)
    losses, now = (held.losses, held.arrays) if held else ([], start)
    for at in range(len(losses) + 1, studies.STEPS + 1):
        now, losses = studies.step(name, number, at, now), [*losses, 1.0 / at]
        yield Step(name, number, base, at)
        if at < studies.STEPS and at % INTERVAL == 0:
            checkpoint.keep(keeper, losses, now)
    return now


def _ended(work: Work, shape: studies.Shape, start: Adapter, now: Adapter) -> Result:
    """Return what travels, as ``training.ended`` does; the silo's memory is durable then."""
    strategy = studies.parts(shape).strategy
    local = update.recalled(work, strategy, start, (1.0, 1.0))
    before = work.memory.get(COUNT, np.zeros(1, np.float32))
    delta, kept = algebra.change(now, start), {COUNT: before + 1}
    wire, told = update.encoded(work, strategy, start, delta, local, kept)
    facts = {"silo": work.site.name, "round": work.order.turn}
    return Result(wire, {"loss": 1.0} | told, facts)
