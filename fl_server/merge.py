"""One round's aggregation: updates are folded in as they arrive, group by group, one in memory at a time."""

from __future__ import annotations

from typing import NamedTuple

from fl_server.journal import State
from strategies import accumulate
from strategies import adapter as algebra
from strategies.accumulate import Sum
from strategies.adapter import Adapter
from strategies.combine import Parts
from strategies.strategy import Weighted


class Merge(NamedTuple):
    """What has arrived so far, by group: a running sum, or for gather methods the updates themselves."""

    sums: dict[str, Sum]
    gathered: dict[str, list[Weighted]]


def empty(parts: Parts, state: State) -> Merge:
    """Return a merge of nothing for the tensors that are sent in the round after ``state``."""
    sums = {}
    for group, adapter in state.adapter.items():
        sent = [name for name in adapter if parts.strategy.sent(name, state.round + 1)]
        sums[group] = accumulate.empty(algebra.layout(algebra.pick(adapter, sent)))
    return Merge(sums, {group: [] for group in sums})


def add(
    merge: Merge,
    parts: Parts,
    groups: dict[str, list[str]],
    silo: str,
    weight: float,
    update: Adapter,
) -> Merge:
    """Return the merge with one silo's update added to each of its groups."""
    sums, gathered = dict(merge.sums), dict(merge.gathered)
    for group, names in groups.items():
        own = algebra.pick(update, set(names) & update.keys())
        if parts.strategy.reduction == "sum":
            sums[group] = accumulate.add(sums[group], own, weight)
        else:
            gathered[group] = [*gathered[group], Weighted(silo, weight, own)]
    return Merge(sums, gathered)


def close(merge: Merge, parts: Parts, state: State) -> State:
    """Return the next state: each group that heard from someone takes the outer optimizer's step."""
    adapters, outers, memories = dict(state.adapter), dict(state.outer), dict(state.strategy)
    for group, adapter in state.adapter.items():
        reduced = _reduced(merge, parts, group)
        if not reduced:
            continue
        moving = algebra.pick(adapter, merge.sums[group].totals)
        delta, memories[group] = parts.strategy.aggregate(reduced, moving, memories[group])
        moved, outer = parts.outer.step(moving, delta, outers[group])
        adapters[group] = adapter | moved
        outers[group] = outers[group] | outer
    return State(state.round + 1, adapters, outers, memories)


def _reduced(merge: Merge, parts: Parts, group: str) -> Adapter | list[Weighted] | None:
    if parts.strategy.reduction == "gather":
        return sorted(merge.gathered[group]) or None
    running = merge.sums[group]
    return accumulate.mean(running) if running.added and running.totals else None
