"""FedAdam (Reddi et al. 2021, arXiv 2003.00295, algorithm 2).

Departs from the paper as Flower does: the rate is corrected for the zero start, counting that start as a step.
"""

from __future__ import annotations

from strategies.outer.outer import Outer, adaptive, fraction


def adam(lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Outer:
    """Scale each coordinate by a running mean of squared updates."""
    fraction(beta2=beta2)

    def rate(count: int) -> float:
        return float((1 - beta2 ** (count + 1)) ** 0.5 / (1 - beta1 ** (count + 1)))

    return adaptive(lambda v, square: beta2 * v + (1 - beta2) * square, lr, beta1, tau, rate)
