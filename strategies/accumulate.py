"""The one accumulator: a weighted sum in 64-bit fixed point, equal to the last bit in any order of arrival.

q_k = rint(w_k x_k 2^32), S = sum q_k, W = sum rint(w_k 2^32), mean = S / W. Integers commute where floats do
not, so streaming, chunking and the order in which silos answer cannot change the result (``algorithms`` F1;
secure aggregation adds the same integers). A value outside +-2^14 is refused, not clipped.

Numbers are rounded by adding 1.5 * 2^52: the sum's unit is then one, so its low bits are the integer (Knuth's trick).
All of it is done block by block, small enough for the processor's cache, for several updates at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from strategies import adapter as algebra
from strategies.adapter import Adapter, Array, Layout

FRACTION = 2.0**32
LIMIT = 2.0**14
MOST = 2**16  # contributions: 2^32 * 2^14 * 2^16 stays below 2^63
ROUNDER = 1.5 * 2.0**52  # of whole numbers below 2^51, and 2^32 * 2^14 is
ROUNDER_BITS = 0x4338 << 48
BLOCK = 1 << 16  # numbers, 512 kB of float64

Sent = tuple[float, Adapter]  # an update, its weight before it


class Sum(NamedTuple):
    """A running sum: integer totals by tensor, the integer weight, how many were added."""

    totals: dict[str, Array]
    weight: int
    added: int


def empty(shapes: Layout) -> Sum:
    """Return the sum of nothing, for tensors of these shapes."""
    return Sum(algebra.unflatten(np.zeros(algebra.size(shapes), np.int64), shapes), 0, 0)


def add(running: Sum, update: Adapter, weight: float) -> Sum:
    """Return the sum with ``weight * update`` added; the totals of ``running`` are reused, not copied.

    Raises:
        ValueError: a weight outside (0, 1], another layout, NaN, or a number beyond +-2^14.
    """
    for name, tensor in update.items():
        if not within(tensor):
            raise ValueError(f"{name} holds NaN or a number beyond {LIMIT:g}")
    return fold(running, [(weight, update)])


def fold(running: Sum, sent: Sequence[Sent]) -> Sum:
    """Return the sum with several updates added at once: as ``add`` does one by one, and sooner.

    Their numbers must be ``within`` the limit, and are not looked at again; else it raises as ``add`` does.
    """
    if running.added + len(sent) > MOST:
        raise ValueError(f"more than {MOST} updates would overflow the accumulator")
    for weight, update in sent:
        _fits(running, update, weight)
    scratch, added = np.empty(BLOCK), _wrapped(len(sent) * ROUNDER_BITS)
    for total, parts in _stretches(running, [update for _, update in sent]):
        for at in range(0, total.size, BLOCK):
            block = total[at : at + BLOCK]
            rounded = scratch[: block.size]
            for (weight, _), part in zip(sent, parts, strict=True):
                rounded[:] = part[at : at + BLOCK]
                rounded *= weight * FRACTION
                rounded += ROUNDER
                block += rounded.view(np.int64)
            block -= added
    weights = sum(round(weight * FRACTION) for weight, _ in sent)
    return Sum(running.totals, running.weight + weights, running.added + len(sent))


def _fits(running: Sum, update: Adapter, weight: float) -> None:
    if not (0 < weight <= 1 and round(weight * FRACTION)):
        raise ValueError(
            f"{weight=} is not in (0, 1], or rounds to 0; divide all weights by the largest"
        )
    if update.keys() != running.totals.keys():
        raise ValueError("the update has other tensors than the sum")
    for name, tensor in update.items():
        if tensor.shape != running.totals[name].shape:
            raise ValueError(f"{name} has shape {tensor.shape}, not {running.totals[name].shape}")


def _stretches(running: Sum, updates: list[Adapter]) -> Iterator[tuple[Array, list[Array]]]:
    """Yield a vector of the sum and those of all updates that belong to it: one of each, or one a tensor."""
    names = sorted(running.totals)
    whole = [algebra.joined([held[name] for name in names]) for held in [running.totals, *updates]]
    known = [vector for vector in whole if vector is not None]
    if len(known) == len(whole):
        yield known[0], known[1:]
        return
    for name in names:
        yield running.totals[name].reshape(-1), [held[name].ravel() for held in updates]


def within(numbers: Array, limit: float = LIMIT) -> bool:
    """Return whether each number is smaller than the limit by size; NaN is not.

    None is larger than the root of the sum of all squares, which is found at once and nearly always decides.
    """
    vector = numbers.reshape(-1)
    if vector.dtype in (np.float32, np.float64):
        with np.errstate(over="ignore", invalid="ignore"):
            if np.dot(vector, vector) < limit**2:
                return True
    return bool(np.all(np.abs(vector) < limit))


def _wrapped(number: int) -> np.int64:
    """Return a whole number modulo 2^64, as additions of 64-bit integers have it."""
    return np.int64((number + (1 << 63)) % (1 << 64) - (1 << 63))


def mean(running: Sum) -> Adapter:
    """Return the weighted mean as float32; raises ``ValueError`` where nothing was added."""
    if running.added == 0:
        raise ValueError("no update was added, so there is no mean")
    shapes = algebra.layout(running.totals)
    means = algebra.unflatten(np.empty(algebra.size(shapes), np.float32), shapes)
    for name, total in running.totals.items():
        flat, made = total.reshape(-1), means[name].reshape(-1)
        for at in range(0, flat.size, BLOCK):
            made[at : at + BLOCK] = flat[at : at + BLOCK] / running.weight
    return means


def mean_of(updates: Iterable[Sent], shapes: Layout) -> Adapter:
    """Return the mean of updates that are all there, each with its weight; raises as ``add`` and ``mean`` do."""
    running = empty(shapes)
    for weight, update in updates:
        running = add(running, update, weight)
    return mean(running)
