"""Coordinates chosen by lot, the same for all silos of a round (rand-k; Stich et al. 2018, arXiv 1809.07599).

The choice follows from seed and round, so no index travels, and it does not depend on the data: encoding commutes with
sums, which is what secure aggregation needs. It runs under error feedback and is therefore not scaled by 1 / density.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from strategies import draw
from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check
from strategies.codecs.topk import largest, share


def randk(density: float = 0.05) -> Codec:
    """Send the share ``density`` of coordinates that the round's lot chooses, the same in every silo."""
    kept = share(density)

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        return x[chosen({}, x.size, key)], {}

    def chosen(side: Wire, size: int, key: Key) -> Array:
        return support(kept(size), size, key.seed, key.round)

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        x = np.zeros(size, np.float32)
        index = chosen(side, size, key)
        x[index] = check(values, np.float32, index.size)
        return x

    return Codec(encode, decode, kept=kept, chosen=chosen, biased=True)


@lru_cache(maxsize=1)  # a hub decodes the updates of all silos of a round, one after the other
def support(count: int, size: int, seed: int, number: int) -> Array:
    """Return the rising indices of the ``count`` coordinates that the lot of round ``number`` chooses."""
    index = largest(draw.words(f"randk:{seed}:{number}", size), count)
    index.setflags(write=False)
    return index
