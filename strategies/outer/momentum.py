"""FedAvgM: momentum at the hub (Hsu et al. 2019, arXiv 1909.06335)."""

from __future__ import annotations

from strategies.outer.outer import Outer, heavy_ball


def momentum(lr: float = 1.0, momentum: float = 0.9) -> Outer:
    """Move along a decaying sum of the mean updates."""
    return heavy_ball(lr, momentum, look_ahead=False)
