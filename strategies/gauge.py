"""Updates that can be compared: LoRA pairs as changes of their products, written in one gauge for all silos.

A silo may write its product as (c B, A / c) for any c: no distance of factors sees through it, and the mean of
factors is ruined by it (a mean product 32 times too large at c = 100, in a small run of ours). So each pair is
balanced first and then turned towards the round's start, which all silos share. A pair of which one factor travels
has no such freedom, and a factor whose other half is elsewhere is compared as it is, like token rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from strategies.accumulate import LIMIT
from strategies.adapter import Adapter, Array
from strategies.product import (
    A,
    B,
    Factors,
    align,
    canonical,
    change,
    inner,
    modules,
    norm,
    tensors,
)
from strategies.strategy import Weighted

ROUNDING = 1e-12  # of the squared sizes: a squared distance below it is none


def units(start: Adapter, sent: Iterable[str]) -> dict[str, list[str]]:
    """Return what is measured as one, by name: the tensors sent of a LoRA pair, any other tensor by itself."""
    home = {module + half: module for module in modules(start) for half in (A, B)}
    found: dict[str, list[str]] = {}
    for name in sorted(sent):
        found.setdefault(home.get(name, name), []).append(name)
    return found


def ends(module: str, update: Adapter, start: Adapter) -> tuple[Factors, Factors]:
    """Return a LoRA pair before and after an update of one or both of its factors, in float64."""
    before = Factors(*(start[module + half].astype(np.float64) for half in (B, A)))
    moved = (update.get(module + half, np.float64(0)) for half in (B, A))
    return before, Factors(*(x + dx for x, dx in zip(before, moved, strict=True)))


def moves(update: Adapter, start: Adapter) -> dict[str, Factors]:
    """Return the change of each unit as a product; that of a tensor by itself is a row of its numbers."""
    return {
        unit: Factors(np.ones((1, 1)), update[unit].astype(np.float64).reshape(1, -1))
        if unit in names
        else change(*ends(unit, update, start))
        for unit, names in units(start, update).items()
    }


def settle(update: Adapter, start: Adapter) -> Adapter:
    """Return the update with each whole LoRA pair in the gauge of the round: balanced, turned to the start."""
    settled = dict(update)
    for module, names in units(start, update).items():
        if len(names) == 2:
            before, after = ends(module, update, start)
            # a product that did not change may be zero, which has no directions: it stays as it was
            moved = norm(change(before, after)) > 0
            end = align(canonical(after), before) if moved else before
            settled |= tensors({module: Factors(end.b - before.b, end.a - before.a)})
    return settled


def settled(updates: Iterable[Weighted], start: Adapter) -> tuple[list[Weighted], dict[str, str]]:
    """Return all updates in the gauge of the round, by silo, and why some cannot be merged."""
    found, refused = [], {}
    for one in sorted(updates, key=lambda one: one.silo):
        made = settle(one.update, start)
        if all(bool(np.all(np.abs(x) < LIMIT)) for x in made.values()):
            found.append(one._replace(update=made))
        else:
            refused[one.silo] = f"set aside: balanced, its factors hold a number beyond {LIMIT:g}"
    return found, refused


def distances(updates: list[Weighted], start: Adapter) -> Array:
    """Return the squared distance of every two updates, the sum over units each in its own measure.

    The measure of a unit is the lower quartile of its squared distances: a large unit hides no small one. Of
    K >= 2 f + 3 silos more than a quarter of the pairs are honest and less than a quarter hostile, so that f
    hostile silos can stretch it no further than the honest ones differ.
    """
    moved = [moves(one.update, start) for one in updates]
    total = np.zeros((len(moved), len(moved)))
    for unit in moved[0]:
        gram = np.array([[inner(left[unit], right[unit]) for right in moved] for left in moved])
        sizes = np.add.outer(np.diag(gram), np.diag(gram))
        squares = sizes - gram - gram.T
        squares[squares <= ROUNDING * sizes] = 0
        total += squares / _measure(squares)
    return total


def _measure(squares: Array) -> float:
    each = np.sort(squares[np.triu_indices(len(squares), 1)])
    apart = each[each > 0]
    if not apart.size:
        return 1.0
    return float(each[(len(each) - 1) // 4] or apart[0])
