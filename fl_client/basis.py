"""What a job works on: the warm base with the strategy's adapter on it, and in it what the hub sent."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from fl_client import bases, chat, merged, model, shapes, silo, spec
from fl_client.config import ConfigError, Study
from fl_client.messages import Fault
from fl_client.model import Warm
from fl_client.workers import Work
from strategies import adapter as algebra
from strategies import broadcast
from strategies.adapter import Adapter, Layout
from strategies.strategy import Strategy

LOG = logging.getLogger("bhasha_fl.silo")


def pinned(folder: Path) -> None:
    """Return where a silo's base is the pinned one; it is read once in the life of a process.

    Raises ``Fault`` where it is another one, ``ConfigError`` where it cannot be read.
    """
    own = silo.read(folder)
    try:
        found = bases.sha256(own.base)
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.base={own.base!r} cannot be read: {error}") from error
    if found != own.base_sha256:
        said = f"{own.base} is not the base that silo.toml pins: its hash is {found}"
        LOG.error("nothing is trained: %s; put it back, then stop and start this silo", said)
        raise Fault("base_not_allowed", said)


def ready(work: Work) -> tuple[Warm, Strategy]:
    """Return the base with its adapter at the start, and the study's strategy."""
    strategy: Strategy = spec.build(work.study.strategy, "strategy")
    made = model.warm(
        work.study.model,
        strategy.private_rank,
        work.order.scripts,
        work.study.seed,
        work.study.train.parallel,
        strategy.domain == "core",
    )
    bounded(made, work.study)
    return chat.closed(made, work.study), strategy


def bounded(made: Warm, study: Study) -> None:
    """Raise ``ConfigError`` where a block of this study is longer than the base can read."""
    places = getattr(made.model.config, "max_position_embeddings", None)
    shapes.reads(study.model.base, places or 0, study.train.length)


def shared(made: Warm, strategy: Strategy, work: Work) -> Adapter:
    """Return the seeded start of all that is shared; raises ``Fault`` where the study's is another."""
    start = algebra.pick(made.start, [n for n in made.start if strategy.scope(n) != "silo"])
    if work.order.start_sha256 != algebra.sha256(start):
        raise Fault("basis_differs")
    return start


def received(made: Warm, strategy: Strategy, work: Work, training: bool = False) -> Adapter:
    """Return what the hub sent and what the silo keeps, as one adapter.

    For ``training`` the strategy's control variates come with it.

    Raises:
        Fault: this silo makes another seeded start, or the hub sent other tensors than this round needs.
    """
    start = shared(made, strategy, work)
    beside = strategy.beside(start) if training else {}
    start |= {own: start[name] for own, name in beside.items()}
    wanted = {n for n in start if strategy.changed(n, work.order.round)}
    shapes = algebra.layout(algebra.pick(start, wanted))
    given = _decoded(work, shapes)
    slices = {n: x for n, x in given.items() if n.endswith(".merged")}
    expected = shapes | algebra.layout(slices)
    allowed = not slices or strategy.mutates_base and work.order.after > 0
    if algebra.layout(given) != expected or not sound(given) or not allowed:
        raise Fault("malformed", "the hub sent other tensors than this round needs")
    if not merged.fits(slices, start):
        raise Fault("malformed", "the hub sent a merged part that does not fit the adapter")
    begun = strategy.renewed(made.start, work.study.seed, work.order.round)
    return begun | algebra.trained(given) | algebra.under("private/", work.memory)


def _decoded(work: Work, shapes: Layout) -> Adapter:
    """Return what the hub sent as float32 tensors; control variates, and the last adapter, travel as they are."""
    codec = spec.codec(work.study.broadcast)
    if work.order.final or broadcast.whole(codec):
        return work.received
    wanted = {name: shape for name, shape in shapes.items() if not name.endswith(algebra.CONTROL)}
    sent, seed, number = algebra.trained(work.received), work.study.seed, work.order.round
    try:
        adapter = broadcast.decode(sent, wanted, codec, seed, number)
    except ValueError as error:
        raise Fault("malformed", f"the hub's broadcast: {error}") from error
    return adapter | algebra.controls(work.received)


def sound(adapter: Adapter) -> bool:
    """Return whether all that came is float32 and finite."""
    return all(x.dtype == np.float32 and bool(np.isfinite(x).all()) for x in adapter.values())
