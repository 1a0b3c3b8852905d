"""One round of several silos: those that can train together do, the others one at a time, and each says how it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from fl_client import gauge, training
from fl_client.cohort import layers, train
from fl_client.cohort.together import LAYERS, ROOM, apart, by_likeness, tried
from fl_client.cohort.train import Member, Trained
from fl_client.messages import Fault
from fl_client.training import Training
from fl_client.workers import Result, Work

LOG = logging.getLogger("bhasha_fl.silo")
MERGED = "a part is merged into the base"
FAILED = "a cohort of them failed"


def fits(opened: Sequence[Callable[[], Work]]) -> list[Result | Exception]:
    """Train one round of each silo and return its result, or why it failed, in the order given.

    The facts of a result say how it was trained: ``cohort`` is how many trained at once, ``apart`` why it was one.
    """
    return by_likeness([tried(partial(_begun, one)) for one in opened], _alike, _group)


def _begun(opened: Callable[[], Work]) -> Training:
    return training.begun(opened())


def _merged(now: Training) -> bool:
    return any(name.endswith(".merged") for name in now.start)


def _alike(now: Training) -> Hashable:
    """Return what silos have in common that can train together: the model, the way to train, what was merged."""
    return id(now.made.model), now.work.study.train, _merged(now)


def _group(group: list[Training]) -> list[Result | Exception]:
    found = _together(group)
    if isinstance(found, str):
        return [_single(now, found) for now in group]
    each = zip(group, found, strict=True)
    return [tried(partial(_ended, now, own, len(group))) for now, own in each]


def _together(group: list[Training]) -> list[Trained] | str:
    """Return what came of all of them at once, or why each trains by itself, from where it began.

    The exception is let go of before they do, for it holds the memory of what failed.
    """
    first = group[0]
    try:
        reason = MERGED if _merged(first) else apart(first.work, first.made)
        return reason or _fitted(group)
    except MemoryError:
        return ROOM
    except layers.Unfit:
        return LAYERS
    except Exception as error:
        LOG.warning("%d silos did not train together: %r; one by one now", len(group), error)
        return FAILED


def _fitted(group: list[Training]) -> list[Trained]:
    members = [Member(n.start, n.blocks, n.plan, n.moments, n.hooks) for n in group]
    options = group[0].work.study.train
    with gauge.memory():
        return train.fit(group[0].made, members, options, options.keep_optimizer)


def _ended(now: Training, fitted: Trained, silos: int) -> Result:
    try:
        mean = fitted.loss
    except FloatingPointError as error:
        raise Fault("not_finite", f"{error} at lr {now.plan.lr}") from error
    result = training.ended(now, fitted.adapter, fitted.moments, mean)
    return result._replace(facts=result.facts | {"cohort": silos})


def _single(now: Training, reason: str) -> Result | Exception:
    LOG.debug("%s trains by itself: %s", now.work.site.name, reason)
    result = tried(partial(training.single, now))
    if isinstance(result, Exception):
        return result
    return result._replace(facts=result.facts | {"cohort": 1, "apart": reason})
