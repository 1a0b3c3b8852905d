"""Bulyan: Krum's choice, one silo after another, then a trimmed mean of them (El Mhamdi et al. 2018, arXiv 1802.07927).

From K silos K - 2 f are chosen, each the best by Krum among those still there, scored anew after every pick; of
each coordinate the K - 4 f values nearest to the median of the chosen are averaged. Departs from the paper in the
distance, which is that of products, and in the coordinates, those of the gauge of the round. Weights do not count.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter, Array
from strategies.gauge import distances
from strategies.guards.guard import Guard, Verdict, by_coordinate, comparing, hostile
from strategies.guards.multi_krum import scores
from strategies.strategy import Weighted


def bulyan(f: int = 1, accept_exclusion: bool = False) -> Guard:
    """Merge what lies in the middle of the silos that Krum chooses; needs 4 f + 3."""
    hostile(f)

    def rule(updates: list[Weighted], start: Adapter) -> Verdict:
        names = chosen(distances(updates, start), f)
        near = len(names) - 2 * f

        def middle(x: Array) -> Array:
            wide = x.astype(np.float64)
            order = np.argsort(np.abs(wide - np.median(wide, axis=0)), axis=0, kind="stable")
            return np.asarray(np.take_along_axis(wide, order[:near], axis=0).mean(axis=0))

        said = {
            one.silo: "set aside: Krum chose others before it"
            for k, one in enumerate(updates)
            if k not in names
        }
        return Verdict([by_coordinate([updates[k] for k in names], middle)], said)

    return comparing(rule, 4 * f + 3, accept_exclusion, mixes=True, fewest=7)


def chosen(squares: Array, f: int) -> list[int]:
    """Return the K - 2 f silos that Krum picks one by one from those still there, in order of index."""
    left = list(range(len(squares)))
    picked: list[int] = []
    while len(picked) < len(squares) - 2 * f:
        best = left[int(np.argmin(scores(squares[np.ix_(left, left)], f)))]
        picked.append(best)
        left.remove(best)
    return sorted(picked)
