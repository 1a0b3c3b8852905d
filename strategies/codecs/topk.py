"""The largest coordinates only (Stich et al. 2018, arXiv 1809.07599), under error feedback.

Ties go to the lowest index, so the same vector is always encoded to the same bytes. Indices travel as coded gaps, see
``strategies/gaps.py``; a link behind it narrows the values. ``decay`` below 1 forgets what was left out long ago, as
SparseLoCo does (Sarfi et al. 2025, arXiv 2508.15706); we choose among all coordinates, not within chunks.
Where ``least`` is given, a silo whose line is short sends a smaller share, and error feedback sends the rest later.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from strategies import gaps
from strategies.adapter import Array
from strategies.codecs.codec import Choices, Codec, Key, Wire, check

SAMPLE, BLOCK = 1 << 15, 1 << 18


def topk(density: float = 0.05, decay: float = 1.0, least: float = 0.0) -> Codec:
    """Send the share ``density`` of coordinates that are largest; a round later ``decay`` of the rest is added.

    A silo with a short line may send a share as small as ``least``; at 0 all send ``density``.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"{decay=} must be above 0 and at most 1, what is kept of the residual")
    if not 0 <= least <= density:
        raise ValueError(f"{least=} must be from 0, for no choice, to {density=}")
    made = _largest(share(density), decay)
    if not least:
        return made
    fewest = share(least)
    choices = Choices(
        lambda size: range(fewest(size), made.kept(size) + 1),
        lambda count: _largest(lambda size: count, decay),
    )
    return made._replace(choices=choices)


def _largest(kept: Callable[[int], int], decay: float) -> Codec:
    """Return the link that sends as many coordinates as ``kept`` says."""

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        index = largest(x, kept(x.size), np.abs)
        return x[index], {"gaps": gaps.encode(index, x.size)}

    def chosen(side: Wire, size: int, key: Key) -> Array:
        return gaps.decode(side["gaps"], kept(size), size)

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        index = chosen(side, size, key)
        x = np.zeros(size, np.float32)
        x[index] = check(values, np.float32, index.size)
        return x

    return Codec(
        encode,
        decode,
        side=("gaps",),
        kept=kept,
        beside=lambda size: gaps.longest(kept(size), size),
        chosen=chosen,
        biased=True,
        decay=decay,
    )


def share(density: float) -> Callable[[int], int]:
    """Return what tells how many of so many numbers are sent; raises ``ValueError`` where ``density`` is no share."""
    if not 0 < density <= 1:
        raise ValueError(f"{density=} must be above 0 and at most 1, the share of numbers sent")
    return lambda size: math.ceil(density * size)


def largest(x: Array, count: int, score: Callable[[Array], Array] = np.asarray) -> Array:
    """Return the rising indices of the ``count`` largest scores; among equals the lowest indices are taken."""
    if not count:
        return np.zeros(0, np.int64)
    among = _candidates(x, count, score)
    found = score(x if among is None else x[among])
    least = np.partition(found, found.size - count)[found.size - count]
    taken = found > least
    equal = np.flatnonzero(found == least)
    taken[equal[: count - np.count_nonzero(taken)]] = True
    return np.flatnonzero(taken) if among is None else among[taken]


def _candidates(x: Array, count: int, score: Callable[[Array], Array]) -> Array | None:
    """Return the rising indices of numbers among which the ``count`` largest are; None where a sample does not tell.

    A sample says from which score on there are a few more than ``count``. Where it misleads there are fewer, which is
    seen, so the largest of the candidates are always the largest of all.
    """
    if x.size < 8 * SAMPLE:
        return None
    sample = score(x[:: x.size // SAMPLE | 1])  # an odd step, which no width of a tensor is
    share = count * sample.size / x.size
    rank = math.ceil(share + 4 * math.sqrt(share) + 1)
    if 2 * rank > sample.size:
        return None
    least = np.partition(sample, sample.size - rank)[sample.size - rank]
    blocks = range(0, x.size, BLOCK)
    found = np.concatenate(
        [at + np.flatnonzero(score(x[at : at + BLOCK]) >= least) for at in blocks]
    )
    return found if found.size >= count else None
