"""Training by itself as a silo's work: done once for a study, kept in the silo, and only numbers leave.

At first it begins from the base; when it is asked for again with the last order, from what was trained together, and
then, where the study says so, from the middle of both.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

from fl_client import alone, basis, checkpoint, evaluate, ranks, spec, training, tries
from fl_client.alone import Best, Kind
from fl_client.config import Study
from fl_client.messages import Fault
from fl_client.tries import Begins
from fl_client.workers import Result, Work
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.silo")


class Run(NamedTuple):
    """A run of a silo by itself: under which name and key its result is kept, and what it begins from."""

    what: Kind
    key: str
    begins: Begins


def result(work: Work) -> Result:
    """Train what is asked for and not yet done; return the validation, rate and step that won. Raises ``Fault``."""
    reached: list[Best] = []
    run: Run | None = first(work)
    while run is not None:
        reached.append(held(work, run) or single(work, run))
        run = following(work, run, reached[-1])
    return told(reached)


def first(work: Work) -> Run:
    """Return the run that a silo is asked for. Raises ``Fault`` where it cannot be begun."""
    private = _private(work.study)
    key = alone.key(work.study, private)
    if not work.order.final:
        return Run("alone", key, Begins(work.study.alone.lrs()))
    made, strategy = basis.ready(work)
    together = basis.received(made, strategy, work)
    own = alone.recall(work.home, key)
    if own is None:
        raise Fault("internal", "there is no result alone, whose rate an adapted one begins with")
    begins = Begins(work.study.alone.adapted(own.lr), together)
    return Run("adapted", alone.key(work.study, private, together), begins)


def following(work: Work, run: Run, best: Best) -> Run | None:
    """Return the run that a silo takes after one in which it reached this, None where it has done all.

    What was merged into the base is not in both of what would be taught from, so then nothing is.
    """
    shares = work.study.alone.taught()
    if run.what != "adapted" or not shares:
        return None
    own = alone.recall(work.home, alone.key(work.study, _private(work.study)))
    if own is None or run.begins.merged():
        alone.skip(len(shares) * work.study.rounds * work.study.train.steps)
        return None
    begins = tries.distilling(own.adapter, best.adapter, own.lr, shares)
    return Run("distilled", _distilled(run.key, work.study), begins)


def held(work: Work, run: Run) -> Best | None:
    """Return what a silo reached in this very run, None where it has yet to train."""
    return alone.recall(work.home, run.key, run.what)


def adapted(work: Work, together: Adapter) -> Best | None:
    """Return the best that a silo reached from what was trained together, None where it did not adapt it."""
    key = alone.key(work.study, _private(work.study), together)
    plain = alone.recall(work.home, key, "adapted")
    distilled = alone.recall(work.home, _distilled(key, work.study), "distilled")
    return min(filter(None, (plain, distilled)), key=lambda best: best.valid, default=None)


def _private(study: Study) -> int:
    return int(spec.build(study.strategy, "strategy").private_rank)


def _distilled(key: str, study: Study) -> str:
    return f"{key}+{study.alone.distil}"


def single(work: Work, run: Run) -> Best:
    """Train one silo by itself, on from its step checkpoint; return the rate and step that won. Raises ``Fault``."""
    made, _ = basis.ready(work)
    length = work.study.train.length
    blocks = training.text(work, made)
    valid = evaluate.blocks(made, work.site.valid, length)
    key = f"{run.key}:{work.site.name}"
    keeper = checkpoint.keeper(work.home, "alone", key, work.checkpoint_s)
    best = alone.fit(made, blocks, valid, work.study, work.site.name, keeper, run.begins)
    return kept(work, run, best)


def kept(work: Work, run: Run, best: Best) -> Best:
    """Return the best of a run; its adapter is in the silo's folder when it returns. Raises ``Fault``."""
    if not best.adapter:
        raise Fault("not_finite", f"training {run.what} diverged at every rate")
    if ranks.first():
        alone.keep(work.home, run.key, best, run.what)
    LOG.info("%s %s: %.3f bits per byte at lr %g", work.site.name, run.what, best.valid, best.lr)
    return best


def told(reached: list[Best]) -> Result:
    """Return what leaves a silo of the runs that it was asked for: where the best point was found."""
    best = min(reached, key=lambda one: one.valid)
    return Result({}, {"valid": best.valid, "lr": best.lr, "step": float(best.step)}, {})
