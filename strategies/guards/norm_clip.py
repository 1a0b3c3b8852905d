"""Norm clipping: no silo moves a part of the adapter much further than the others (Sun et al. 2019, arXiv 1911.07963).

For each LoRA pair the norm is that of the change of its product, for token rows the Euclidean one. Departs from the
paper in the bound, which nobody can guess: it is a multiple of the median over silos in the round before, so an
update is judged as it arrives and whatever came before it. In the first round, when there is none before, all are
judged together. Where halves of a pair are sent in turn, each is held against the last round that sent the same half.
The median is the lower one, so of two silos the smaller change counts, and one that hardly moves stops the other: for
two choose an ``absolute`` bound. It takes away size, not direction: against a
silo that pushes the wrong way choose ``multi_krum`` or ``trimmed_mean``.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

import numpy as np

from strategies.adapter import Adapter
from strategies.gauge import ends, moves, sizes, units
from strategies.guards.guard import Guard, Memory, Verdict, in_gauge, remembered
from strategies.product import A, B, Factors, inner, norm, stack
from strategies.strategy import Weighted

HALVINGS = 50


def norm_clip(bound: float = 1.0, absolute: bool = False) -> Guard:
    """Scale down what moved a part of the adapter further than the bound.

    Args:
        bound: how many times the median of the silos' changes is allowed.
        absolute: the bound is itself the norm allowed, whatever others do.
    """
    if not 0 < bound < float("inf"):
        raise ValueError(f"{bound=} must be above 0 and finite")

    def gathers(start: Adapter, sent: Iterable[str], memory: Memory) -> bool:
        names = set(sent)
        return not absolute and not {_kept_as(u, names) for u in units(start, names)} <= set(memory)

    def judge(updates: list[Weighted], start: Adapter, memory: Memory) -> Verdict:
        seen = [sizes(one.update, start) for one in updates]
        kept_as = [
            {_kept_as(u, one.update): size for u, size in moved.items()}
            for one, moved in zip(updates, seen, strict=True)
        ]
        known = remembered(kept_as) | memory
        shares, said = [], {}
        for one, moved in zip(updates, seen, strict=True):
            limits = {
                u: bound if absolute else bound * _median(known, _kept_as(u, one.update))
                for u in moved
            }
            far = [u for u in moved if moved[u] > limits[u]]
            shares.append({u: _share(u, one.update, start, limits[u]) for u in far})
            if far:
                said[one.silo] = _sentence(shares[-1], len(moved))
        kept = (
            one._replace(update=_scaled(one.update, start, own))
            for one, own in zip(updates, shares, strict=True)
        )
        return Verdict(kept, said, tuple(kept_as))

    return Guard(judge, in_gauge, gathers)


def _kept_as(unit: str, sent: Container[str]) -> str:
    """Return the name under which sizes of a unit are remembered: its own, or of half a pair that of the half sent."""
    halves = [unit + half for half in (A, B) if unit + half in sent]
    return halves[0] if len(halves) == 1 else unit


def _median(known: Memory, name: str) -> float:
    sizes = known.get(name, np.zeros(1))
    return float(sizes[(len(sizes) - 1) // 2])


def _share(unit: str, update: Adapter, start: Adapter, limit: float) -> float:
    """Return how much of an update moves this unit by the limit: its size grows with the share, not in a line."""
    if unit in update:
        return limit / norm(moves({unit: update[unit]}, start)[unit])
    before, after = ends(unit, update, start)
    step = Factors(after.b - before.b, after.a - before.a)
    linear = stack([(1.0, Factors(step.b, before.a)), (1.0, Factors(before.b, step.a))])
    ll, lq, qq = inner(linear, linear), inner(linear, step), inner(step, step)
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        within = middle**2 * (ll + 2 * middle * lq + middle**2 * qq) <= limit**2
        low, high = (middle, high) if within else (low, middle)
    return low


def _scaled(update: Adapter, start: Adapter, shares: dict[str, float]) -> Adapter:
    factor = {
        name: np.float32(shares.get(unit, 1.0))
        for unit, names in units(start, update).items()
        for name in names
    }
    return {name: x * factor[name] for name, x in update.items()}


def _sentence(shares: dict[str, float], parts: int) -> str:
    return (
        f"clipped: {len(shares)} of {parts} parts moved beyond the bound,"
        f" of the furthest {min(shares.values()):.2g} is merged"
    )
