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

from strategies.accumulate import LIMIT, within
from strategies.adapter import Adapter, Array
from strategies.gauge import settle
from strategies.strategy import Weighted

Memory = dict[str, Array]
Seen = dict[str, float]  # how large a change was, by the name that it is remembered under


AT_ONCE = 1 << 19  # numbers of all silos together that are compared at once


class Verdict(NamedTuple):
    """Which updates are merged, what was done to a silo's and why, and what is to be remembered of them.

    Where ``kept`` is no list, updates are made as they are asked for, once.
    """

    kept: Iterable[Weighted]
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


def as_it_came(one: Weighted, start: Adapter) -> Weighted | str:
    """An update is judged as it came."""
    return one


def in_gauge(one: Weighted, start: Adapter) -> Weighted | str:
    """Return an update in the gauge of the round, or why it cannot be merged."""
    made = settle(one.update, start)
    if all(within(x) for x in made.values()):
        return one._replace(update=made)
    return f"set aside: balanced, its factors hold a number beyond {LIMIT:g}"


class Guard(NamedTuple):
    """``arrive(update, start)`` is what is judged of an update when it comes, or in words why it cannot be.

    ``judge(updates, start, memory)`` is given one of these, or where ``gathers`` says so all of a group's, by silo;
    they may lie in a file, so it looks at a part of each at a time. ``start`` holds the group's tensors as silos
    received them. The hub remembers the sizes ``seen`` in the last round, sorted, by name.
    """

    judge: Callable[[list[Weighted], Adapter, Memory], Verdict] = keep_all
    arrive: Callable[[Weighted, Adapter], Weighted | str] = as_it_came
    gathers: Callable[[Adapter, Iterable[str], Memory], bool] = one_by_one
    least: int = 1  # how many silos a group must have
    discards: bool = False  # what an honest silo sent may not count
    accept_exclusion: bool = False  # even where it is the only one of its language
    mixes: bool = False  # one update is made of all, number by number
    # how many silos it needs where it expects one hostile silo; 0 where it expects no number of them
    fewest: int = 0


def remembered(seen: Iterable[Seen]) -> Memory:
    """Return the sizes above zero by name, sorted, so that the order of silos does not matter."""
    sizes: dict[str, list[float]] = {}
    for one in seen:
        for name, size in one.items():
            if size > 0:
                sizes.setdefault(name, []).append(size)
    return {name: np.sort(np.array(found)) for name, found in sizes.items()}


def judged(guard: Guard, updates: Iterable[Weighted], start: Adapter, memory: Memory) -> Verdict:
    """Return the verdict on updates as they came, all that are kept in a list."""
    arrived = {one.silo: guard.arrive(one, start) for one in sorted(updates, key=lambda u: u.silo)}
    refused = {silo: why for silo, why in arrived.items() if isinstance(why, str)}
    found = [one for one in arrived.values() if not isinstance(one, str)]
    verdict = guard.judge(found, start, memory)
    return verdict._replace(kept=list(verdict.kept), said=verdict.said | refused)


def comparing(
    rule: Callable[[list[Weighted], Adapter], Verdict],
    least: int,
    accept_exclusion: bool,
    mixes: bool = False,
    fewest: int = 0,
) -> Guard:
    """Return the guard that gives ``rule`` all updates of a group in one gauge, if they are at least ``least``."""

    def judge(updates: list[Weighted], start: Adapter, memory: Memory) -> Verdict:
        if len(updates) >= least:
            return rule(updates, start)
        found = len(updates)
        why = f"set aside: {found} updates can be compared here, and the guard needs {least}"
        return Verdict([], {one.silo: why for one in updates})

    return Guard(judge, in_gauge, all_together, least, True, accept_exclusion, mixes, fewest)


def by_coordinate(updates: list[Weighted], rule: Callable[[Array], Array]) -> Weighted:
    """Return one update in place of all: ``rule`` over the first axis of their numbers, stacked by silo.

    It is given some coordinates at a time, as many as ``AT_ONCE`` allows.
    """
    merged, step = {}, max(1, AT_ONCE // len(updates))
    for name, first in updates[0].update.items():
        rows = [one.update[name].reshape(-1) for one in updates]
        made = np.empty(first.size, np.float32)
        for at in range(0, first.size, step):
            made[at : at + step] = rule(np.stack([row[at : at + step] for row in rows]))
        merged[name] = made.reshape(first.shape)
    return Weighted("", 1.0, merged)


def hostile(f: int) -> None:
    """Raise ``ValueError`` where ``f`` is no number of hostile silos."""
    if f < 0:
        raise ValueError(f"{f=} is no number of hostile silos; give 0 or more")
