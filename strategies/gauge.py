"""Updates that can be compared: LoRA pairs as changes of their products, written in one gauge for all silos.

A silo may write its product as (c B, A / c) for any c: no distance of factors sees through it, and the mean of
factors is ruined by it (a mean product 32 times too large at c = 100, in a small run of ours). So each pair is
balanced first and then turned towards the round's start, which all silos share. A pair of which one factor travels
has no such freedom, and a factor whose other half is elsewhere is compared as it is, like token rows.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from strategies.adapter import Adapter, Array, pick
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
AT_ONCE = 1 << 20  # numbers of changes that are compared with each other at a time


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


def sizes(update: Adapter, start: Adapter) -> dict[str, float]:
    """Return the Frobenius norm of the change of each unit as a product."""
    return {
        unit: norm(moves(pick(update, names), start)[unit])
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


def distances(updates: list[Weighted], start: Adapter) -> Array:
    """Return the squared distance of every two updates, the sum over units each in its own measure.

    The measure of a unit is the lower quartile of its squared distances: a large unit hides no small one. Of
    K >= 2 f + 3 silos more than a quarter of the pairs are honest and less than a quarter hostile, so that f
    hostile silos can stretch it no further than the honest ones differ.
    """
    total = np.zeros((len(updates), len(updates)))
    for unit, names in units(start, updates[0].update).items():
        gram = _gram([pick(one.update, names) for one in updates], start, unit)
        sizes = np.add.outer(np.diag(gram), np.diag(gram))
        squares = sizes - gram - gram.T
        squares[squares <= ROUNDING * sizes] = 0
        total += squares / _measure(squares)
    return total


def _gram(updates: list[Adapter], start: Adapter, unit: str) -> Array:
    """Return the inner products of all changes of a unit, of as many silos at a time as ``AT_ONCE`` allows."""
    gram = np.empty((len(updates), len(updates)))
    silos = max(1, AT_ONCE // sum(x.size for x in moves(updates[0], start)[unit]))
    tiles = [slice(at, at + silos) for at in range(0, len(updates), silos)]
    for rows in tiles:
        left = [moves(update, start)[unit] for update in updates[rows]]
        for columns in tiles:
            right = (
                left
                if rows == columns
                else [moves(update, start)[unit] for update in updates[columns]]
            )
            gram[rows, columns] = [[inner(one, other) for other in right] for one in left]
    return gram


def _measure(squares: Array) -> float:
    each = np.sort(squares[np.triu_indices(len(squares), 1)])
    apart = each[each > 0]
    if not apart.size:
        return 1.0
    return float(each[(len(each) - 1) // 4] or apart[0])
