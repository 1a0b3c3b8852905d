"""What a schedule is: pure decisions about a round, from counts and elapsed seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

Closes = Callable[[int, int, int, float], bool]


class Buffer(NamedTuple):
    """How updates are merged where silos do not wait for each other: ``size`` of them make a commit, which is a round.

    An update's staleness is how many commits there were since the adapter that it was trained on: ``discount`` is the
    factor on its weight, 0 where it is refused, and ``longest`` the most staleness that is not. ``share(speed,
    fastest)`` is the share of a round's steps that a silo is asked, from steps a second.
    """

    size: int
    longest: int
    discount: Callable[[int], float]
    share: Callable[[float, float], float]


class Schedule(NamedTuple):
    """``asks(names, seed, round)`` are the silos that train in a round, of all that there are.

    ``closes(asked, answered, waiting, elapsed_s)`` says whether the round ends now, ``scored`` whether waiting for
    scores does; ``enough(asked, answered)`` whether it counts. With a ``buffer`` a silo is asked again at once.
    """

    closes: Closes
    enough: Callable[[int, int], bool]
    needed: Callable[[int], int]
    asks: Callable[[Sequence[str], int, int], list[str]]
    scored: Closes
    buffer: Buffer | None = None

    @property
    def late(self) -> int:
        """By how many rounds a silo may be late and must still find the adapter that it was sent."""
        return max(1, self.buffer.longest) if self.buffer else 1

    def asked(self, silos: int) -> int:
        """Return how many of so many silos a round asks."""
        return len(self.asks([f"silo-{number}" for number in range(silos)], 0, 1))

    def waits_for(self, silos: int) -> int:
        """Return how many answers end a round before its deadline, of so many silos."""
        asked = self.asked(silos)
        return next(n for n in range(asked + 1) if self.closes(asked, n, asked - n, 0.0))


def by(deadline_s: float) -> Closes:
    """Return the rule that waits for everyone, at most so long; raises ``ValueError``."""
    if not deadline_s > 0:
        raise ValueError(f"{deadline_s=} must be above 0 seconds")
    return lambda asked, answered, waiting, elapsed_s: waiting == 0 or elapsed_s >= deadline_s
