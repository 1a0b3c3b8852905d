"""Silos that lag behind what they reach alone count more: p ~ exp(rate (F - F_alone)), the gap in bits per byte.

In the spirit of parity of gaps (EAGLE, arXiv 2603.29818): a raw loss cannot be compared between scripts, how far it is
from the same silo's own can. Ours is the plain exponential of that gap on validation text, measured at the start of the
round; a silo that already gains has a gap below 0 and counts less. Whether fewer silos end worse than alone is an open
question, which every report answers for its own silos; the rail serves each whichever is better.
"""

from __future__ import annotations

from math import exp

from strategies.weights.weight import Seen, Weight, steepness


def loss_gap(rate: float = 1.0) -> Weight:
    """Weigh a silo by its gap to training alone; at rate 1, a tenth of a bit per byte is 10 % more."""
    steepness("rate", rate)

    def tilt(seen: Seen) -> list[float]:
        widest = max(seen.gaps)
        return [exp(rate * (gap - widest)) for gap in seen.gaps]

    return Weight(tilt=tilt, needs="gap")
