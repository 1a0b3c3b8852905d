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
BLOCK = 1 << 15  # numbers

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
    for name in running.totals.keys() & update.keys():
        _check(name, update[name].ravel())
    return fold(running, [(weight, update)])


def fold(running: Sum, sent: Sequence[Sent]) -> Sum:
    """Return the sum with several updates added at once: as ``add`` does one by one, and sooner.

    Raises as ``add`` does; where it was a number that is refused, the sum is spoiled.
    """
    if running.added + len(sent) > MOST:
        raise ValueError(f"more than {MOST} updates would overflow the accumulator")
    for weight, update in sent:
        _fits(running, update, weight)
    scratch = np.empty(BLOCK)
    for name, total, parts in _stretches(running, [update for _, update in sent]):
        for at in range(0, total.size, BLOCK):
            block = total[at : at + BLOCK]
            for (weight, _), part in zip(sent, parts, strict=True):
                _add(name, block, part[at : at + BLOCK], weight * FRACTION, scratch[: block.size])
            block -= _wrapped(len(sent) * ROUNDER_BITS)
    weight = sum(round(weight * FRACTION) for weight, _ in sent)
    return Sum(running.totals, running.weight + weight, running.added + len(sent))


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


def _stretches(
    running: Sum, updates: list[Adapter]
) -> Iterator[tuple[str, Array, list[Array]]]:
    """Yield vectors that belong together, of the sum and of each update: all at once, or tensor by tensor."""
    names = sorted(running.totals)
    whole = [algebra.joined([held[name] for name in names]) for held in [running.totals, *updates]]
    known = [vector for vector in whole if vector is not None]
    if len(known) == len(whole):
        yield "the update", known[0], known[1:]
        return
    for name in names:
        yield name, running.totals[name].reshape(-1), [held[name].ravel() for held in updates]


def _add(name: str, block: Array, part: Array, scale: float, scratch: Array) -> None:
    """Add the integers, and as often as there are updates the bits of the rounder; NaN is found while it is near."""
    _check(name, part)
    scratch[:] = part
    scratch *= scale
    scratch += ROUNDER
    block += scratch.view(np.int64)


def _check(name: str, part: Array) -> None:
    if not within(part):
        raise ValueError(f"{name} holds NaN or a number beyond {LIMIT:g}")


def within(vector: Array, limit: float = LIMIT) -> bool:
    """Return whether each number of a vector is smaller than the limit by size; NaN is not.

    None is larger than the root of the sum of their squares, which nearly always decides it, and at once.
    """
    short = vector.dtype in (np.float32, np.float64) and bool(np.dot(vector, vector) < limit**2)
    return short or bool(np.all(np.abs(vector) < limit))


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
        running = fold(running, [(weight, update)])
    return mean(running)
