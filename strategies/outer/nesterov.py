"""Nesterov momentum at the hub, DiLoCo's outer optimizer (Douillard et al. 2023, arXiv 2311.08105)."""

from __future__ import annotations

from strategies.outer.outer import Outer, heavy_ball


def nesterov(lr: float = 0.7, momentum: float = 0.9) -> Outer:
    """Move along the momentum as it will be after this update."""
    return heavy_ball(lr, momentum, look_ahead=True)
