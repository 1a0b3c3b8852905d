"""FedYogi (Reddi et al. 2021, arXiv 2003.00295, algorithm 2): the second moment grows additively."""

from __future__ import annotations

import numpy as np

from strategies.adapter import Array
from strategies.outer.outer import Outer, adaptive, fraction


def yogi(lr: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3) -> Outer:
    """Scale each coordinate by a second moment that moves by at most one squared update."""
    fraction(beta2=beta2)

    def second(v: Array, square: Array) -> Array:
        return np.asarray(v - (1 - beta2) * square * np.sign(v - square))

    return adaptive(second, lr, beta1, tau)
