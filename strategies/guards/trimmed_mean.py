"""The trimmed mean of every coordinate (Yin et al. 2018, arXiv 1803.01498): the largest and the smallest do not count.

Departs from the paper in the coordinates: those of LoRA pairs in the gauge of the round. Weights do not count.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter, Array
from strategies.guards.guard import Guard, Verdict, by_coordinate, comparing
from strategies.strategy import Weighted


def trimmed_mean(share: float = 0.2, accept_exclusion: bool = False) -> Guard:
    """Merge the mean of each coordinate without the share of silos at each end, and without one at least."""
    if not 0 <= share < 0.5:
        raise ValueError(f"{share=} at both ends leaves nothing; give 0 or more and below 0.5")

    def rule(updates: list[Weighted], start: Adapter) -> Verdict:
        dropped = max(1, int(share * len(updates) + 1e-9)) if share else 0

        def trimmed(x: Array) -> Array:
            ordered = np.sort(x.astype(np.float64), axis=0)
            return np.asarray(ordered[dropped : len(x) - dropped].mean(axis=0))

        return Verdict([by_coordinate(updates, trimmed)])

    return comparing(rule, 3 if share else 1, accept_exclusion, mixes=True)
