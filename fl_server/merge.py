"""One round's aggregation: updates are folded in as they arrive, group by group, a few in memory at a time.

Adding ``TOGETHER`` updates at once reads and writes the sum once for all of them. With the sum, which is as large as
two, at most six updates are in memory for one group, however many silos there are, and three for each further one, of
which every group's state holds one anyway: where a guard or the strategy must see all, they wait in a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from fl_server import controls, estimates
from fl_server.journal import State
from fl_server.shelf import Shelf, shelved
from strategies import accumulate
from strategies import adapter as algebra
from strategies.accumulate import Sum
from strategies.adapter import Adapter
from strategies.combine import Parts
from strategies.guards.guard import Verdict, judged, remembered
from strategies.strategy import Weighted

TOGETHER = 3  # updates that are folded in at once
NONE: Mapping[str, float] = MappingProxyType({})
# silo -> "guard" -> group -> what was done to its update and why
Said = dict[str, dict[str, dict[str, str]]]


class Merge(NamedTuple):
    """What has arrived so far, by group: a running sum, or a shelf where all must be seen, and what was said.

    ``waiting`` are updates, each with its group, that are in no sum yet; ``absent`` is the weight of silos that sent
    none; ``shares`` is how much of its mean a group goes along, 1 where it is not there. Weights are divided by the
    ``largest`` of their group, 1 where it is not there: of a weight far below 1 the sum would keep few bits.
    """

    start: State
    sums: dict[str, Sum]
    waiting: tuple[tuple[str, Weighted], ...]
    shelves: dict[str, Shelf]
    verdicts: dict[str, list[Verdict]]
    controls: dict[str, Sum]
    absent: dict[str, float]
    largest: Mapping[str, float]
    shares: Mapping[str, float] = NONE


def empty(
    parts: Parts,
    state: State,
    sketch: int = 0,
    folder: Path | None = None,
    largest: Mapping[str, float] = NONE,
) -> Merge:
    """Return a merge of nothing for the tensors that are sent in the round after ``state``, in sketches of a size.

    Updates that must wait for all others do so on the disk of ``folder``; no weight is above its group's ``largest``.
    """
    sums, beside = {}, {}
    for group, adapter in state.adapter.items():
        sent = [name for name in adapter if parts.strategy.sent(name, state.round + 1)]
        shapes = algebra.layout(algebra.trained(algebra.pick(adapter, sent)))
        if parts.strategy.passes:
            first, second = parts.strategy.passes.layouts(shapes, sketch)
            shapes = first | second
        sums[group], beside[group] = accumulate.empty(shapes), controls.empty(adapter, sent)
    shelves = {group: Shelf(folder) for group in sums}
    verdicts: dict[str, list[Verdict]] = {group: [] for group in sums}
    return Merge(state, sums, (), shelves, verdicts, beside, dict.fromkeys(sums, 0.0), largest)


def add(
    merge: Merge,
    parts: Parts,
    groups: dict[str, list[str]],
    silo: str,
    weight: float,
    update: Adapter,
) -> Merge:
    """Return the merge with one silo's update added to each of its groups; its numbers are ``accumulate.within``."""
    waiting, verdicts, beside = [*merge.waiting], dict(merge.verdicts), dict(merge.controls)
    for group, names in groups.items():
        sent = algebra.pick(update, set(names) & update.keys())
        scaled = weight / merge.largest.get(group, 1.0)
        beside[group] = controls.add(beside[group], sent, scaled)
        own = Weighted(silo, scaled, algebra.trained(sent))
        if own.update:
            kept, verdict = _arrived(merge, parts, group, own)
            waiting += [(group, one) for one in kept]
            verdicts[group] = [*verdicts[group], verdict]
    merge = merge._replace(waiting=tuple(waiting), verdicts=verdicts, controls=beside)
    return _folded(merge) if len(waiting) >= TOGETHER else merge


def _arrived(
    merge: Merge, parts: Parts, group: str, own: Weighted
) -> tuple[Iterable[Weighted], Verdict]:
    """Return what of an update can be added at once, and what was said of it; one that cannot is put on the shelf."""
    start, memory = merge.start.adapter[group], merge.start.guard.get(group, {})
    if not _gathers(merge, parts, group):
        verdict = judged(parts.guard, [own], start, memory)
        return verdict.kept, verdict._replace(kept=[])
    found = parts.guard.arrive(own, start)
    if isinstance(found, str):
        return [], Verdict([], {own.silo: found})
    merge.shelves[group].put(found)
    return [], Verdict([])


def _folded(merge: Merge) -> Merge:
    """Return the merge with what waits added to the sums."""
    sums = dict(merge.sums)
    for group in dict.fromkeys(group for group, _ in merge.waiting):
        own = [(one.weight, one.update) for within, one in merge.waiting if within == group]
        sums[group] = accumulate.fold(sums[group], own)
    return merge._replace(sums=sums, waiting=())


def absent(merge: Merge, groups: Iterable[str], weight: float) -> Merge:
    """Return the merge with a silo that sent nothing: it counts where a mean is over all silos."""
    own = {group: weight / merge.largest.get(group, 1.0) for group in groups}
    still = {
        group: controls.add(merge.controls[group], {}, scaled) for group, scaled in own.items()
    }
    away = {group: merge.absent[group] + scaled for group, scaled in own.items()}
    return merge._replace(controls=merge.controls | still, absent=merge.absent | away)


def close(merge: Merge, parts: Parts, state: State) -> tuple[State, Said]:
    """Return the next state, and what the guard said by silo.

    Each group of which something is kept takes the outer optimizer's step, along its share of the mean.
    """
    merge = _folded(merge)
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
        if parts.codec.tracks:
            present = merge.sums[group].weight / accumulate.FRACTION
            share = present / (present + merge.absent[group])
            delta, believed = estimates.moved(delta, outers[group], share)
            outers[group] = outers[group] | believed
        if merge.shares.get(group, 1.0) < 1:
            delta = {name: np.float32(merge.shares[group]) * x for name, x in delta.items()}
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


def _reduced(
    merge: Merge, parts: Parts, group: str
) -> tuple[list[Verdict], Adapter | list[Weighted] | None]:
    verdicts, running, shelf = merge.verdicts[group], merge.sums[group], merge.shelves[group]
    if len(shelf):
        start, memory = merge.start.adapter[group], merge.start.guard.get(group, {})
        verdict = parts.guard.judge(shelf.take(), start, memory)
        verdicts = [*verdicts, verdict._replace(kept=[])]
        if parts.strategy.reduction == "gather":
            lying = isinstance(verdict.kept, list)  # else they are made as they are asked for
            kept = verdict.kept if lying else shelved(verdict.kept, shelf.folder)
            return verdicts, list(kept) or None
        for one in verdict.kept:
            running = accumulate.fold(running, [(one.weight, one.update)])
    return verdicts, accumulate.mean(running) if running.added else None
