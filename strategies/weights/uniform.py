"""Every silo counts the same: the limit of every other weight at an infinite temperature."""

from __future__ import annotations

from strategies.weights.weight import Weight


def uniform() -> Weight:
    """Weigh all silos alike."""
    return Weight()
