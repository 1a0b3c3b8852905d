"""One round of several silos: those that can train together do, the others one at a time, and each says how it was."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from fl_client import gauge, training
from fl_client.cohort import layers, loss, size, tokens, train
from fl_client.cohort.train import Member, Trained
from fl_client.messages import Fault
from fl_client.training import Training
from fl_client.workers import Result

if TYPE_CHECKING:
    from fl_client.work import Work

LOG = logging.getLogger("bhasha_fl.silo")
T = TypeVar("T")
LAYERS = "the base has layers that are more than products"
ROOM = "a cohort of them does not fit in memory"


def fits(opened: Sequence[Callable[[], Work]]) -> list[Result | Exception]:
    """Train one round of each silo and return its result, or why it failed, in the order given.

    The facts of a result say how it was trained: ``cohort`` is how many trained at once, ``apart`` why it was one.
    """
    begun = [_tried(partial(_begun, one)) for one in opened]
    outcomes: dict[int, Result | Exception] = {}
    groups: dict[object, list[int]] = {}
    for at, now in enumerate(begun):
        if isinstance(now, Exception):
            outcomes[at] = now
        else:
            groups.setdefault(_alike(now), []).append(at)
    for places in groups.values():
        outcomes |= zip(places, _group([begun[at] for at in places]), strict=True)  # type: ignore[misc]
    return [outcomes[at] for at in range(len(begun))]


def _begun(opened: Callable[[], Work]) -> Training:
    return training.begun(opened())


def apart(now: Training) -> str:
    """Return why a silo trains by itself, empty where it can train in a cohort."""
    known = size.apart(now.work.study)
    if known:
        return known
    reasons = {
        "a part is merged into the base": any(n.endswith(".merged") for n in now.start),
        "step checkpoints are kept": now.work.checkpoint_s > 0,
        "the base has dropout": _drops(now.made.model),
        "its table of tokens is more than a table": not tokens.plain(now.made),
        LAYERS: not all(map(layers.plain, layers.adapted(now.made).values())),
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    return "" if loss.plain(now.made) else "the logits of the base are more than a product"


def _drops(model: Any) -> bool:
    config = vars(model.get_base_model().config)
    return any("drop" in n and isinstance(x, float) and x > 0 for n, x in config.items())


def _alike(now: Training) -> object:
    """Return what silos have in common that can train together: the model, the way to train, what was merged."""
    merged = any(n.endswith(".merged") for n in now.start)
    return id(now.made.model), now.work.study.train, now.strategy.domain, merged


def _group(group: list[Training]) -> list[Result | Exception]:
    reason = apart(group[0])
    if reason:
        return [_single(now, reason) for now in group]
    members = [Member(n.start, n.blocks, n.plan, n.moments, n.hooks) for n in group]
    try:
        with gauge.memory():
            fitted = train.fit(group[0].made, members, group[0].work.study.train)
    except MemoryError:
        return [_single(now, ROOM) for now in group]
    except layers.Unfit:
        return [_single(now, LAYERS) for now in group]
    return [
        _tried(partial(_ended, now, own, len(group)))
        for now, own in zip(group, fitted, strict=True)
    ]


def _ended(now: Training, fitted: Trained, silos: int) -> Result:
    try:
        mean = fitted.loss
    except FloatingPointError as error:
        raise Fault("not_finite", f"{error} at lr {now.plan.lr}") from error
    result = training.ended(now, fitted.adapter, fitted.moments, mean)
    return result._replace(facts=result.facts | {"cohort": silos})


def _single(now: Training, reason: str) -> Result | Exception:
    LOG.debug("%s trains by itself: %s", now.work.site.name, reason)
    result = _tried(partial(training.single, now))
    if isinstance(result, Exception):
        return result
    return result._replace(facts=result.facts | {"cohort": 1, "apart": reason})


def _tried(make: Callable[[], T]) -> T | Exception:
    """Return what came of a piece of work, or the exception that ended it: the others go on."""
    try:
        with gauge.memory():
            return make()
    except MemoryError:
        return Fault("out_of_memory")
    except Exception as error:
        return error
