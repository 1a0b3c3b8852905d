"""Multi-Krum: the silos that are far from their neighbours do not count (Blanchard et al. 2017, arXiv 1703.02757).

A silo's score is the sum of its squared distances to the K - f - 2 silos nearest to it, not counting itself; the f
silos of the highest scores are set aside and the others merged with their weights. Departs from the paper in the
distance, which is that of products, each part of the adapter in its own measure.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter, Array
from strategies.gauge import distances
from strategies.guards.guard import Guard, Verdict, comparing, hostile
from strategies.strategy import Weighted


def multi_krum(f: int = 1, accept_exclusion: bool = False) -> Guard:
    """Set the ``f`` silos aside that are furthest from their neighbours; needs 2 f + 3."""
    hostile(f)

    def rule(updates: list[Weighted], start: Adapter) -> Verdict:
        found = scores(distances(updates, start), f)
        order = np.argsort(found, kind="stable")
        kept = sorted(order[: len(updates) - f])
        usual = float(np.median(found)) or 1.0
        said = {
            updates[k].silo: f"set aside: {found[k] / usual:.3g} times as far from its neighbours"
            " as the median silo"
            for k in order[len(updates) - f :]
        }
        return Verdict([updates[k] for k in kept], said)

    return comparing(rule, 2 * f + 3, accept_exclusion, fewest=5)


def scores(squares: Array, f: int) -> Array:
    """Return the Krum score of each silo from the squared distances between all of them."""
    near = max(1, len(squares) - f - 2)
    others = squares.copy()
    np.fill_diagonal(others, np.inf)
    return np.asarray(np.sort(others, axis=1)[:, :near].sum(axis=1))
