"""Training by itself as a silo's work: done once for a study, kept in the silo, and only numbers leave.

At first it begins from the base; when it is asked for again with the last order, from what was trained together.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from fl_client import alone, basis, checkpoint, evaluate, ranks, spec, training
from fl_client.alone import Begins, Best, Kind
from fl_client.messages import Fault
from fl_client.workers import Result, Work

LOG = logging.getLogger("bhasha_fl.silo")


class Run(NamedTuple):
    """A run of a silo by itself: under which name and key its result is kept, and what it begins from."""

    what: Kind
    key: str
    begins: Begins


def run(work: Work) -> Run:
    """Return the run that a silo is asked for. Raises ``Fault`` where it cannot be begun."""
    private = spec.build(work.study.strategy, "strategy").private_rank
    key = alone.key(work.study, private)
    if not work.order.final:
        return Run("alone", key, Begins(work.study.alone.lrs()))
    made, strategy = basis.ready(work)
    together = basis.received(made, strategy, work)
    _, facts = alone.recall(work.home, key)
    if not facts:
        raise Fault("internal", "there is no result alone, whose rate an adapted one begins with")
    begins = Begins(work.study.alone.adapted(facts["lr"]), together)
    return Run("adapted", alone.key(work.study, private, together), begins)


def held(work: Work, run: Run) -> Result | None:
    """Return what a silo reached in this very run, None where it has yet to train."""
    adapter, facts = alone.recall(work.home, run.key, run.what)
    return _told(facts) if adapter else None


def single(work: Work, run: Run) -> Result:
    """Train one silo by itself, on from its step checkpoint; return the rate and step that won. Raises ``Fault``."""
    made, _ = basis.ready(work)
    length = work.study.train.length
    blocks = training.text(work, made)
    valid = evaluate.blocks(made, work.site.valid, length)
    key = f"{run.key}:{work.site.name}"
    keeper = checkpoint.keeper(work.home, "alone", key, work.checkpoint_s)
    best = alone.fit(made, blocks, valid, work.study, work.site.name, keeper, run.begins)
    return ended(work, run, best)


def ended(work: Work, run: Run, best: Best) -> Result:
    """Return the rate and step that won; the adapter is in the silo's folder when it returns. Raises ``Fault``."""
    if not best.adapter:
        raise Fault("not_finite", f"training {run.what} diverged at every rate")
    if ranks.first():
        alone.keep(work.home, run.key, best, run.what)
    LOG.info("%s %s: %.3f bits per byte at lr %g", work.site.name, run.what, best.valid, best.lr)
    return _told({"valid": best.valid, "lr": best.lr, "step": best.step})


def _told(facts: dict[str, Any]) -> Result:
    return Result({}, {name: float(facts[name]) for name in ("valid", "lr", "step")}, {})
