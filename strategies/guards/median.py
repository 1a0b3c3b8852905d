"""The median of every coordinate (Yin et al. 2018, arXiv 1803.01498): fewer than half of the silos cannot move it far.

Departs from the paper in the coordinates: those of LoRA pairs in the gauge of the round. Weights do not count.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter
from strategies.guards.guard import Guard, Verdict, by_coordinate, comparing
from strategies.strategy import Weighted


def median(accept_exclusion: bool = False) -> Guard:
    """Merge the median over silos of each coordinate."""

    def rule(updates: list[Weighted], start: Adapter) -> Verdict:
        return Verdict([by_coordinate(updates, lambda x: np.median(x.astype(np.float64), axis=0))])

    return comparing(rule, 3, accept_exclusion, mixes=True)
