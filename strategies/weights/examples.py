"""Silos count by their number of examples, p ~ n^(1/temperature)."""

from __future__ import annotations

from strategies.weights.weight import Weight, power


def examples(temperature: float = 1.0) -> Weight:
    """Weigh a silo by its number of training examples."""
    return power("examples", temperature)
