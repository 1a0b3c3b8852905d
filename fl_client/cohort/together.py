"""Work of several silos at once, each with an outcome of its own, and what keeps a silo from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from fl_client import gauge
from fl_client.cohort import layers, loss, size, tokens
from fl_client.messages import Fault
from fl_client.model import Warm
from fl_client.workers import Result, Work

T = TypeVar("T")
LAYERS = "the base has layers that are more than products"
ROOM = "a cohort of them does not fit in memory"
KNOWN: WeakKeyDictionary[Any, str] = WeakKeyDictionary()  # of each base that was tried


def tried(make: Callable[[], T]) -> T | Exception:
    """Return what came of a piece of work, or the exception that ended it: the others go on."""
    try:
        with gauge.memory():
            return make()
    except MemoryError:
        return Fault("out_of_memory")
    except Exception as error:
        return error


def by_likeness(
    begun: Sequence[T | Result | Exception],
    alike: Callable[[T], Hashable],
    group: Callable[[list[T]], list[Result | Exception]],
) -> list[Result | Exception]:
    """Return the outcome of each: of those that are alike what ``group`` makes of them, of the others what they are."""
    outcomes: dict[int, Result | Exception] = {}
    groups: dict[Hashable, dict[int, T]] = {}
    for at, now in enumerate(begun):
        if isinstance(now, (Result, Exception)):
            outcomes[at] = now
        else:
            groups.setdefault(alike(now), {})[at] = now
    for members in groups.values():
        outcomes |= zip(members, group(list(members.values())), strict=True)
    return [outcomes[at] for at in range(len(begun))]


def apart(work: Work, made: Warm) -> str:
    """Return why a silo trains by itself, empty where it can train in a cohort."""
    known = size.apart(work.study)
    if known:
        return known
    if work.checkpoint_s > 0:
        return "step checkpoints are kept"
    if made.model not in KNOWN:
        KNOWN[made.model] = of_base(made)
    return KNOWN[made.model]


def of_base(made: Warm) -> str:
    """Return why silos cannot train in a cohort on this base, empty where they can; the base is tried for it."""
    reasons = {
        "the base has dropout": _drops(made.model),
        "the base looks tokens up in more than a table": not tokens.plain(made),
        LAYERS: not all(map(layers.plain, layers.adapted(made).values())),
    }
    for reason, holds in reasons.items():
        if holds:
            return reason
    return "" if loss.plain(made) else "the logits of the base are more than a product"


def _drops(model: Any) -> bool:
    config = vars(model.get_base_model().config)
    return any("drop" in n and isinstance(x, float) and x > 0 for n, x in config.items())
