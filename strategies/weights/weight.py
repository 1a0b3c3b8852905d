"""What a weight is: a number for each silo, from what it said of its text when the study began.

Weights come from a silo's registered counts, never from the message that carries an update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """How much text a silo trains on, in one language or in all."""

    examples: int
    bytes: int
    characters: int
    tokens: int


class Weight(NamedTuple):
    """``of(counts)`` returns a positive number; only ratios between silos matter."""

    of: Callable[[Counts], float]


def total(counts: Mapping[str, Counts]) -> Counts:
    """Return the sum over languages."""
    return Counts(*(sum(column) for column in zip(*counts.values(), strict=True)))


def power(field: str, temperature: float) -> Weight:
    """Return the weight ``count ** (1 / temperature)``: 1 is proportional, infinity is uniform."""
    if not temperature >= 0.1:
        raise ValueError(
            f"{temperature=} must be 0.1 or more; 1 is proportional, larger is more even"
        )
    return Weight(lambda counts: float(max(1, getattr(counts, field)) ** (1 / temperature)))
