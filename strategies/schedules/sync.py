"""Synchronous rounds: wait for all, until a deadline; the round counts from a quorum on."""

from __future__ import annotations

import math

from strategies.schedules.schedule import Schedule


def sync(quorum: float = 1.0, deadline_s: float = 3600.0) -> Schedule:
    """Close a round when every silo has answered, or at the deadline with a share ``quorum`` of them."""
    if not 0 < quorum <= 1:
        raise ValueError(f"{quorum=} is a share of the silos; give more than 0 and at most 1")
    if not deadline_s > 0:
        raise ValueError(f"{deadline_s=} must be above 0 seconds")

    def needed(asked: int) -> int:
        return max(1, math.ceil(quorum * asked - 1e-9))

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        return waiting == 0 or elapsed_s >= deadline_s

    return Schedule(closes, lambda asked, answered: answered >= needed(asked), needed)
