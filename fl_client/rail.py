"""Training alone as a silo's work: done once for a study, kept in the silo, and only numbers leave."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fl_client import alone, basis, checkpoint, evaluate, ranks, spec, training
from fl_client.alone import Best
from fl_client.messages import Fault
from fl_client.workers import Result

if TYPE_CHECKING:
    from fl_client.work import Work

LOG = logging.getLogger("bhasha_fl.silo")


def held(work: Work) -> Result | None:
    """Return what a silo reached alone in this very study, None where it has yet to train."""
    adapter, facts = alone.recall(work.home, _key(work))
    return _told(facts) if adapter else None


def single(work: Work) -> Result:
    """Train one silo alone, on from its step checkpoint; return the rate and step that won. Raises ``Fault``."""
    made, _ = basis.ready(work)
    length = work.study.train.length
    blocks = training.text(work, made)
    valid = evaluate.blocks(made, work.site.valid, length)
    key = f"{_key(work)}:{work.site.name}"
    keeper = checkpoint.keeper(work.home, "alone", key, work.checkpoint_s)
    return ended(work, alone.fit(made, blocks, valid, work.study, work.site.name, keeper))


def ended(work: Work, best: Best) -> Result:
    """Return the rate and step that won; the adapter is in the silo's folder when it returns. Raises ``Fault``."""
    if not best.adapter:
        raise Fault("not_finite", "training alone diverged at every rate of alone.rates")
    if ranks.first():
        alone.keep(work.home, _key(work), best)
    LOG.info("%s alone: %.3f bits per byte at lr %g", work.site.name, best.valid, best.lr)
    return _told({"valid": best.valid, "lr": best.lr, "step": best.step})


def _key(work: Work) -> str:
    return alone.key(work.study, spec.build(work.study.strategy, "strategy").private_rank)


def _told(facts: dict[str, Any]) -> Result:
    return Result({}, {name: float(facts[name]) for name in ("valid", "lr", "step")}, {})
