"""Synchronous rounds: wait for all who were asked, until a deadline; the round counts from a quorum on.

Where silos are many, each round may ask a few drawn by lot (McMahan et al. 2017, arXiv 1602.05629), and some more than
it waits for, so that it does not hang on the slowest (Bonawitz et al. 2019, arXiv 1902.01046).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from strategies import draw
from strategies.schedules.schedule import Schedule, by


def sync(
    quorum: float = 1.0, deadline_s: float = 3600.0, sample: int = 0, over_sample: int = 0
) -> Schedule:
    """Close a round when every silo asked has answered, or at the deadline with a share ``quorum`` of them.

    Args:
        quorum: the share of those asked that must answer.
        deadline_s: seconds after which a round waits no longer.
        sample: how many silos each round asks, drawn by lot; 0 for all.
        over_sample: how many more are asked, so that the round closes when ``sample`` of them have answered.
    """
    if not 0 < quorum <= 1:
        raise ValueError(f"{quorum=} is a share of the silos; give more than 0 and at most 1")
    waits = by(deadline_s)
    _few(sample, over_sample)

    def asks(names: Sequence[str], seed: int, number: int) -> list[str]:
        if not 0 < sample + over_sample < len(names):
            return list(names)
        lots = draw.words(f"sample:{seed}:{number}", len(names))
        return sorted(names[k] for k in np.argsort(lots, kind="stable")[: sample + over_sample])

    def wanted(asked: int) -> int:
        return min(asked, sample) if over_sample else asked

    def needed(asked: int) -> int:
        return max(1, math.ceil(quorum * wanted(asked) - 1e-9))

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        return answered >= wanted(asked) or waits(asked, answered, waiting, elapsed_s)

    return Schedule(closes, lambda asked, answered: answered >= needed(asked), needed, asks, waits)


def _few(sample: int, over_sample: int) -> None:
    if sample < 0:
        raise ValueError(f"{sample=} is no number of silos; give 0 for all, or 1 and more")
    if over_sample < 0 or over_sample and not sample:
        raise ValueError(
            f"{over_sample=} silos are asked beyond {sample=}; give 0 or more, and a sample of 1 or more with it"
        )
