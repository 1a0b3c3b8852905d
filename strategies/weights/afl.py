"""Agnostic federated learning: weights move toward the silo that is worst off (Mohri et al. 2019, arXiv 1902.00146).

The shares lambda, uniform at first, take a step of projected ascent on the losses F before each round: lambda <- the
nearest point of the simplex to lambda + rate F. They are replayed from the losses on record, so nothing is kept. The
paper steps with sampled training losses, and on lambda and the model at once; here F is the validation bits per byte at
the start of the round, lambda goes first, and no silo falls below ``weight.LEAST`` of another.

Only differences in loss count: a rate of 0.1 moves a silo that is 1 bit per byte worse by about 0.1 a round. Across
scripts such differences do not go away, and the hardest script ends up with all the weight: see loss_gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from strategies.weights.weight import Seen, Weight, steepness


def afl(rate: float = 0.1) -> Weight:
    """Weigh silos by shares that climb toward the worst of them, ``rate`` for each bit per byte and round."""
    steepness("rate", rate)

    def tilt(seen: Seen) -> list[float]:
        shares = [1 / len(seen.gaps)] * len(seen.gaps)
        for losses in seen.losses:
            worst = max(losses)  # adding a number to all changes no projection; so none overflows
            shares = projected(
                [share + rate * (loss - worst) for share, loss in zip(shares, losses, strict=True)]
            )
        return shares

    return Weight(tilt=tilt, needs="loss")


def projected(point: Sequence[float]) -> list[float]:
    """Return the nearest point of the simplex: what stands above the level that leaves 1 (Duchi et al. 2008)."""
    sums = accumulate(sorted(point, reverse=True))
    level = max((above - 1) / n for n, above in enumerate(sums, 1))
    return [max(value - level, 0.0) for value in point]
