"""The one accumulator: a weighted sum in 64-bit fixed point, equal to the last bit in any order of arrival.

q_k = rint(w_k x_k 2^32), S = sum q_k, W = sum rint(w_k 2^32), mean = S / W. Integers commute where floats do
not, so streaming, chunking and the order in which silos answer cannot change the result (``algorithms`` F1;
secure aggregation adds the same integers). A value outside +-2^14 is refused, not clipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from strategies.adapter import Adapter, Array, Layout

FRACTION = 2.0**32
LIMIT = 2.0**14
MOST = 2**16  # contributions: 2^32 * 2^14 * 2^16 stays below 2^63


class Sum(NamedTuple):
    """A running sum: integer totals by tensor, the integer weight, how many were added."""

    totals: dict[str, Array]
    weight: int
    added: int


def empty(shapes: Layout) -> Sum:
    """Return the sum of nothing, for tensors of these shapes."""
    return Sum({name: np.zeros(shape, np.int64) for name, shape in shapes.items()}, 0, 0)


def add(running: Sum, update: Adapter, weight: float) -> Sum:
    """Return the sum with ``weight * update`` added; the totals of ``running`` are reused, not copied.

    Raises:
        ValueError: a weight outside (0, 1], another layout, NaN, or a number beyond +-2^14.
    """
    if not (0 < weight <= 1 and round(weight * FRACTION)):
        raise ValueError(
            f"{weight=} is not in (0, 1], or rounds to 0; divide all weights by the largest"
        )
    if running.added >= MOST:
        raise ValueError(f"more than {MOST} updates would overflow the accumulator")
    if update.keys() != running.totals.keys():
        raise ValueError("the update has other tensors than the sum")
    for name, tensor in update.items():
        if tensor.shape != running.totals[name].shape:
            raise ValueError(f"{name} has shape {tensor.shape}, not {running.totals[name].shape}")
        if not np.all(np.abs(tensor) < LIMIT):
            raise ValueError(f"{name} holds NaN or a number beyond {LIMIT:g}")
    for name, tensor in update.items():
        exact = np.rint(tensor.astype(np.float64) * (weight * FRACTION))
        running.totals[name] += exact.astype(np.int64)
    return Sum(running.totals, running.weight + round(weight * FRACTION), running.added + 1)


def mean(running: Sum) -> Adapter:
    """Return the weighted mean as float32; raises ``ValueError`` where nothing was added."""
    if running.added == 0:
        raise ValueError("no update was added, so there is no mean")
    return {
        name: (total / running.weight).astype(np.float32) for name, total in running.totals.items()
    }


def mean_of(updates: Iterable[tuple[float, Adapter]], shapes: Layout) -> Adapter:
    """Return the mean of updates that are all there, each with its weight; raises as ``add`` and ``mean`` do."""
    running = empty(shapes)
    for weight, update in updates:
        running = add(running, update, weight)
    return mean(running)
