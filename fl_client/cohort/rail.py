"""Training alone, of several silos at once: each by itself as in ``fl_client.alone``, sharing the time of the base.

A rate is tried by all of them side by side; one that stops early, or whose loss is no number, drops out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from fl_client import alone, basis, evaluate, gauge, rail, training
from fl_client.alone import NONE, Best
from fl_client.cohort import layers, scores, train
from fl_client.cohort.together import apart, by_likeness, tried
from fl_client.cohort.train import Member, Trained
from fl_client.evaluate import Asked
from fl_client.model import Warm
from fl_client.train import Plan
from fl_client.tries import NO_LESSON, Begins, Lesson
from fl_client.workers import Result, Work
from strategies.adapter import Adapter
from tasks.encode import Blocks

if TYPE_CHECKING:
    from fl_client.config import Study

LOG = logging.getLogger("bhasha_fl.alone")


class Silo(NamedTuple):
    """A silo that trains alone: its text, the best of the rates before, the best of this one, where it stands."""

    name: str
    blocks: Blocks
    valid: dict[str, Blocks]
    begins: Begins
    best: Best = NONE
    own: Best = NONE
    adapter: Adapter = {}
    moments: Adapter = {}
    lesson: Lesson = NO_LESSON
    goes_on: bool = True


class Begun(NamedTuple):
    """A silo that has yet to train alone, and where."""

    work: Work
    run: rail.Run
    made: Warm
    silo: Silo
    reached: list[Best]  # in the runs before


def fits(opened: Sequence[Callable[[], Work]]) -> list[Result | Exception]:
    """Have each silo train alone and return its result, or why it failed, in the order given."""
    return by_likeness([tried(partial(_begun, one)) for one in opened], _alike, _group)


def _begun(opened: Callable[[], Work]) -> Begun | Result:
    work = opened()
    return _onward(work, rail.first(work), [])


def _onward(work: Work, run: rail.Run | None, reached: list[Best]) -> Begun | Result:
    """Return a silo before the next run that it has yet to take, or its result where it has taken all."""
    while run is not None:
        before = rail.held(work, run)
        if before is None:
            made, _ = basis.ready(work)
            valid = evaluate.blocks(made, work.site.valid, work.study.train.length)
            silo = Silo(work.site.name, training.text(work, made), valid, run.begins)
            return Begun(work, run, made, silo, reached)
        reached = [*reached, before]
        run = rail.following(work, run, before)
    return rail.told(reached)


def _alike(now: Begun) -> Hashable:
    return id(now.made.model), now.work.study.train, now.run.what


def _group(group: list[Begun]) -> list[Result | Exception]:
    fitted = _together(group)
    ended: list[Callable[[], Best]] = [partial(rail.single, now.work, now.run) for now in group]
    if fitted:
        each = zip(group, fitted, strict=True)
        ended = [partial(rail.kept, now.work, now.run, best) for now, best in each]
    begun = [tried(partial(_next, now, end)) for now, end in zip(group, ended, strict=True)]
    return by_likeness(begun, _alike, _group)


def _together(group: list[Begun]) -> list[Best]:
    """Return the best of each, nothing where each trains by itself: none of them has kept anything by then."""
    first = group[0]
    try:
        if apart(first.work, first.made) or any(now.run.begins.merged() for now in group):
            return []
        with gauge.memory():
            return fit(first.made, [now.silo for now in group], first.work.study)
    except (MemoryError, layers.Unfit):
        LOG.debug("silos train alone one after the other")
    except Exception as error:
        said = "%d silos did not train alone side by side: %r; one by one now"
        LOG.warning(said, len(group), error)
    return []


def _next(now: Begun, end: Callable[[], Best]) -> Begun | Result:
    """Return a silo whose run ends before its next one, or its result."""
    best = end()
    run = rail.following(now.work, now.run, best)
    return _onward(now.work, run, [*now.reached, best])


def fit(made: Warm, silos: Sequence[Silo], study: Study) -> list[Best]:
    """Train each silo alone at each rate; return the best point of each by validation bits per byte."""
    for number in range(max(len(silo.begins.lrs) for silo in silos)):
        silos = [_at_rate(silo, number) for silo in silos]
        for first in range(0, study.rounds * study.train.steps, study.train.steps):
            silos = _stretch(made, silos, study, first)
        silos = [s._replace(best=min(s.best, s.own, key=lambda point: point.valid)) for s in silos]
    return [silo.best for silo in silos]


def _at_rate(silo: Silo, number: int) -> Silo:
    """Return a silo at the start of one of its rates, as one that has stopped where it has fewer."""
    begins = silo.begins
    if number >= len(begins.lrs):
        return silo._replace(own=NONE, goes_on=False)
    return silo._replace(
        own=NONE._replace(lr=begins.lrs[number]),
        adapter=begins.adapter,
        moments={},
        lesson=begins.lesson(number),
        goes_on=True,
    )


def _stretch(made: Warm, silos: Sequence[Silo], study: Study, first: int) -> list[Silo]:
    """Return the silos after as many steps as a round has, those that have stopped as they were."""
    steps, total = study.train.steps, study.rounds * study.train.steps
    active = [silo for silo in silos if silo.goes_on]
    members = [
        Member(
            s.adapter,
            s.blocks,
            Plan(first, steps, total, s.own.lr, f"{study.seed}:{s.name}", 0, s.lesson),
            s.moments,
        )
        for s in active
    ]
    # AdamW even where the study trains with SGD, as in ``fl_client.alone``
    options = study.train.model_copy(update={"optimizer": "adamw"})
    fitted = train.fit(made, members, options) if members else []
    asked = [Asked(own.adapter, s.valid) for s, own in zip(active, fitted, strict=True)]
    scored = [
        evaluate.bits_per_byte(evaluate.scores(bits, one.text))
        for one, bits in zip(asked, scores.each(made, asked), strict=True)
    ]
    after = {
        silo.name: _after(silo, own, reached, first + steps, steps)
        for silo, own, reached in zip(active, fitted, scored, strict=True)
    }
    for _ in (silo for silo in after.values() if not silo.goes_on):
        alone.skip(total - (first + steps))
    return [after.get(silo.name, silo) for silo in silos]


def _after(silo: Silo, fitted: Trained, scored: float, reached: int, steps: int) -> Silo:
    try:
        _ = fitted.loss
    except FloatingPointError as error:
        LOG.warning("%s alone: %s; this rate is given up", silo.name, error)
        return silo._replace(goes_on=False)
    own = silo.own
    if scored < own.valid:
        own = Best(fitted.adapter, scored, own.lr, reached)
    goes_on = not alone.over(own, reached, steps)
    return silo._replace(own=own, adapter=fitted.adapter, moments=fitted.moments, goes_on=goes_on)
