"""Coordinates chosen by lot, the same for all silos of a round (rand-k; Stich et al. 2018, arXiv 1809.07599).

The choice follows from seed and round, so no index travels, and it does not depend on the data: encoding commutes with
sums, which is what secure aggregation needs. It runs under error feedback and is therefore not scaled by 1 / density.
"""

from __future__ import annotations

import numpy as np

from strategies import draw
from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check
from strategies.codecs.topk import largest, share


def randk(density: float = 0.05) -> Codec:
    """Send the share ``density`` of coordinates that the round's lot chooses, the same in every silo."""
    kept = share(density)

    def support(size: int, key: Key) -> Array:
        return largest(draw.words(f"randk:{key.seed}:{key.round}", size), kept(size))

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        return x[support(x.size, key)], {}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        x = np.zeros(size, np.float32)
        x[support(size, key)] = check(values, np.float32, kept(size))
        return x

    return Codec(encode, decode, kept=kept, biased=True, linear=True)
