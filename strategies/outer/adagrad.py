"""FedAdagrad (Reddi et al. 2021, arXiv 2003.00295, algorithm 2): the second moment only grows."""

from __future__ import annotations

from strategies.outer.outer import Outer, adaptive


def adagrad(lr: float = 0.01, beta1: float = 0.0, tau: float = 1e-3) -> Outer:
    """Scale each coordinate by the sum of all squared updates so far."""
    return adaptive(lambda v, square: v + square, lr, beta1, tau)
