"""What a schedule is: pure decisions about a round, from counts and elapsed seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Schedule(NamedTuple):
    """``asks(names, seed, round)`` are the silos that train in a round, of all that there are.

    ``closes(asked, answered, waiting, elapsed_s)`` says whether the round ends now; ``enough`` whether it counts.
    """

    closes: Callable[[int, int, int, float], bool]
    enough: Callable[[int, int], bool]
    needed: Callable[[int], int]
    asks: Callable[[Sequence[str], int, int], list[str]]
