"""One round's aggregation: updates are folded in as they arrive, group by group, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from fl_server import controls
from fl_server.journal import State
from strategies import accumulate
from strategies import adapter as algebra
from strategies.accumulate import Sum
from strategies.adapter import Adapter
from strategies.combine import Parts
from strategies.guards.guard import Verdict, remembered
from strategies.strategy import Weighted

# silo -> "guard" -> group -> what was done to its update and why
Said = dict[str, dict[str, dict[str, str]]]


class Merge(NamedTuple):
    """What has arrived so far, by group: a running sum, or the updates where all must be seen, and what was said."""

    start: State
    sums: dict[str, Sum]
    gathered: dict[str, list[Weighted]]
    verdicts: dict[str, list[Verdict]]
    controls: dict[str, Sum]


def empty(parts: Parts, state: State, sketch: int = 0) -> Merge:
    """Return a merge of nothing for the tensors that are sent in the round after ``state``, in sketches of a size."""
    sums, beside = {}, {}
    for group, adapter in state.adapter.items():
        sent = [name for name in adapter if parts.strategy.sent(name, state.round + 1)]
        shapes = algebra.layout(algebra.trained(algebra.pick(adapter, sent)))
        if parts.strategy.passes:
            first, second = parts.strategy.passes.layouts(shapes, sketch)
            shapes = first | second
        sums[group], beside[group] = accumulate.empty(shapes), controls.empty(adapter, sent)
    return Merge(state, sums, {group: [] for group in sums}, {group: [] for group in sums}, beside)


def add(
    merge: Merge,
    parts: Parts,
    groups: dict[str, list[str]],
    silo: str,
    weight: float,
    update: Adapter,
) -> Merge:
    """Return the merge with one silo's update added to each of its groups."""
    sums, gathered, verdicts = dict(merge.sums), dict(merge.gathered), dict(merge.verdicts)
    beside = dict(merge.controls)
    for group, names in groups.items():
        sent = algebra.pick(update, set(names) & update.keys())
        beside[group] = controls.add(beside[group], sent, weight)
        own = Weighted(silo, weight, algebra.trained(sent))
        if _gathers(merge, parts, group):
            gathered[group] = [*gathered[group], own]
        elif own.update:
            verdict = _judged(merge, parts, group, [own])
            sums[group] = _added(sums[group], verdict.kept)
            verdicts[group] = [*verdicts[group], verdict._replace(kept=[])]
    return Merge(merge.start, sums, gathered, verdicts, beside)


def absent(merge: Merge, groups: Iterable[str], weight: float) -> Merge:
    """Return the merge with a silo that sent nothing: it counts where a mean is over all silos."""
    still = {group: controls.add(merge.controls[group], {}, weight) for group in groups}
    return merge._replace(controls=merge.controls | still)


def close(merge: Merge, parts: Parts, state: State) -> tuple[State, Said]:
    """Return the next state, and what the guard said by silo.

    Each group of which something is kept takes the outer optimizer's step.
    """
    adapters, outers, memories = dict(state.adapter), dict(state.outer), dict(state.strategy)
    guards, said = dict(state.guard), Said()
    for group, adapter in state.adapter.items():
        verdicts, reduced = _reduced(merge, parts, group)
        seen = remembered(one for verdict in verdicts for one in verdict.seen)
        guards[group] = guards.get(group, {}) | seen
        for silo, why in (pair for verdict in verdicts for pair in verdict.said.items()):
            said.setdefault(silo, {"guard": {}})["guard"][group] = why
        if not reduced:
            continue
        moving = algebra.pick(adapter, merge.sums[group].totals)
        delta, memories[group] = parts.strategy.aggregate(reduced, moving, memories[group])
        moved, outer = parts.outer.step(moving, delta, outers[group])
        adapters[group] = adapter | moved | controls.moved(adapter, merge.controls[group])
        memories[group] = parts.strategy.merge(adapters[group], memories[group])
        outers[group] = outers[group] | outer
    return State(state.round + 1, adapters, outers, memories, guards), said


def _gathers(merge: Merge, parts: Parts, group: str) -> bool:
    if parts.strategy.reduction == "gather":
        return True
    adapter, memory = merge.start.adapter[group], merge.start.guard.get(group, {})
    return parts.guard.gathers(adapter, merge.sums[group].totals, memory)


def _judged(merge: Merge, parts: Parts, group: str, updates: list[Weighted]) -> Verdict:
    memory = merge.start.guard.get(group, {})
    return parts.guard.judge(updates, merge.start.adapter[group], memory)


def _added(running: Sum, updates: list[Weighted]) -> Sum:
    for one in updates:
        running = accumulate.add(running, one.update, one.weight)
    return running


def _reduced(
    merge: Merge, parts: Parts, group: str
) -> tuple[list[Verdict], Adapter | list[Weighted] | None]:
    verdicts, running = merge.verdicts[group], merge.sums[group]
    if not running.totals:
        return [], None
    if merge.gathered[group]:
        verdicts = [_judged(merge, parts, group, sorted(merge.gathered[group]))]
        if parts.strategy.reduction == "gather":
            return verdicts, verdicts[0].kept or None
        running = _added(running, verdicts[0].kept)
    return verdicts, accumulate.mean(running) if running.added else None
