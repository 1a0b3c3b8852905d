"""What a guard is, and what several guards share.

A guard sees updates before they are merged. One that can judge an update by itself leaves the hub its running sum,
one update in memory at a time; one that must compare turns its group of silos into a gather. Distances and norms
are those of products in one gauge (``strategies/gauge.py``). No guard sees poison that an honest silo was fed: it
bounds what one silo can do to the others, nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from strategies.adapter import Adapter, Array
from strategies.gauge import settled
from strategies.strategy import Weighted

Memory = dict[str, Array]
Seen = dict[str, float]  # how large a change was, by unit


class Verdict(NamedTuple):
    """Which updates are merged, what was done to a silo's and why, and what is to be remembered of them."""

    kept: list[Weighted]
    said: dict[str, str] = {}
    seen: tuple[Seen, ...] = ()


def keep_all(updates: list[Weighted], start: Adapter, memory: Memory) -> Verdict:
    """Every update is merged as it came."""
    return Verdict(updates)


def one_by_one(start: Adapter, sent: Iterable[str], memory: Memory) -> bool:
    """An update is judged by itself."""
    return False


def all_together(start: Adapter, sent: Iterable[str], memory: Memory) -> bool:
    """No update is judged before all are there."""
    return True


class Guard(NamedTuple):
    """``judge(updates, start, memory)`` is given one update, or where ``gathers`` says so all of a group's.

    ``start`` holds the group's tensors as silos received them. The hub remembers the sizes ``seen`` in the last
    round, sorted, by unit.
    """

    judge: Callable[[list[Weighted], Adapter, Memory], Verdict] = keep_all
    gathers: Callable[[Adapter, Iterable[str], Memory], bool] = one_by_one
    least: int = 1  # how many silos a group must have
    discards: bool = False  # what an honest silo sent may not count
    accept_exclusion: bool = False  # even where it is the only one of its language


def remembered(seen: Iterable[Seen]) -> Memory:
    """Return the sizes above zero by unit, sorted, so that the order of silos does not matter."""
    sizes: dict[str, list[float]] = {}
    for one in seen:
        for unit, size in one.items():
            if size > 0:
                sizes.setdefault(unit, []).append(size)
    return {unit: np.sort(np.array(found)) for unit, found in sizes.items()}


def comparing(
    rule: Callable[[list[Weighted], Adapter], Verdict], least: int, accept_exclusion: bool
) -> Guard:
    """Return the guard that gives ``rule`` all updates of a group in one gauge, if they are at least ``least``."""

    def judge(updates: list[Weighted], start: Adapter, memory: Memory) -> Verdict:
        found, refused = settled(updates, start)
        if len(found) < least:
            why = (
                f"set aside: {len(found)} updates can be compared here, and the guard needs {least}"
            )
            return Verdict([], {one.silo: why for one in found} | refused)
        verdict = rule(found, start)
        return verdict._replace(said=verdict.said | refused)

    return Guard(judge, all_together, least, True, accept_exclusion)


def by_coordinate(updates: list[Weighted], rule: Callable[[Array], Array]) -> Weighted:
    """Return one update in place of all: ``rule`` over the first axis of each tensor, stacked by silo."""
    merged = {
        name: rule(np.stack([one.update[name] for one in updates])).astype(np.float32)
        for name in updates[0].update
    }
    return Weighted("", 1.0, merged)


def hostile(f: int) -> None:
    """Raise ``ValueError`` where ``f`` is no number of hostile silos."""
    if f < 0:
        raise ValueError(f"{f=} is no number of hostile silos; give 0 or more")
