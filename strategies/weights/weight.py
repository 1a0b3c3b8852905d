"""What a weight is: a number for each silo, from what it said of its text and of its losses before the round.

Never from the message that carries an update. Counts are registered when the study begins; losses are validation bits
per byte, told after a round. A silo says both of itself, so whoever overstates them counts for more than it should.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from strategies.accumulate import FRACTION

# A loss lifts nobody above 1024 times another: where all of a group are low, its sum still has 22 bits of fraction.
LEAST = 2.0**-10
MOST = 1 << 50  # of anything that is counted


class Counts(NamedTuple):
    """How much text a silo trains on, in one language or in all."""

    examples: int
    bytes: int
    characters: int
    tokens: int


class Seen(NamedTuple):
    """What is known of all silos when a round begins, in one order and without holes.

    ``losses[t][k]`` is silo k's validation bits per byte at the start of round t + 1, the newest row last; ``gaps[k]``
    is the newest of them less what the silo reached alone.
    """

    losses: Sequence[Sequence[float]]
    gaps: Sequence[float]


def alike(counts: Counts) -> float:
    """However much text a silo has, it weighs the same."""
    return 1.0


def level(seen: Seen) -> list[float]:
    """Whatever the losses are, they change nothing."""
    return [1.0] * len(seen.gaps)


class Weight(NamedTuple):
    """``of(counts)`` returns a positive number, ``tilt(seen)`` a factor from 0 up for each silo; only ratios matter.

    ``needs`` says what the tilt looks at: nothing (``counts``), the losses, or the gaps.
    """

    of: Callable[[Counts], float] = alike
    tilt: Callable[[Seen], list[float]] = level
    needs: Literal["counts", "loss", "gap"] = "counts"


def weigh(weight: Weight, counts: Sequence[Counts], seen: Seen) -> list[float]:
    """Return each silo's weight in a round: the largest is 1, the least what the accumulator still counts."""
    tilts = weight.tilt(seen)
    steepest = max(tilts)
    raw = [
        weight.of(own) * max(tilt / steepest, LEAST)
        for own, tilt in zip(counts, tilts, strict=True)
    ]
    top = max(raw)
    return [max(value / top, 1 / FRACTION) for value in raw]


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


def steepness(name: str, value: float) -> float:
    """Return the strength of a tilt; raises ``ValueError`` unless it is a finite number from 0 up."""
    if not 0 <= value < float("inf"):
        raise ValueError(
            f"{name}={value} must be 0 or more; 0 ignores losses, larger follows them more"
        )
    return value
