"""The bytes of an update as a codec sends it, before there is one: the codec encodes a vector of that size here."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from safetensors.numpy import save

from fl_client import spec
from strategies import budget
from strategies.codecs.codec import Key

ENCODED = 1 << 20  # numbers that are really encoded; beyond, a codec's bytes grow by the same slope


def encoded(size: int, codec: str, most: int = 0) -> int:
    """Return the bytes of an update of so many numbers as this codec sends it.

    Where a line may carry less than that, what fits; raises ``ValueError`` where nothing does.
    """
    whole = _whole(size, codec)
    return min(whole, budget.fit(spec.codec(codec), size, most).bytes) if most else whole


@lru_cache(maxsize=64)
def _whole(size: int, codec: str) -> int:
    if size <= 2 * ENCODED:
        return _really(size, codec)
    first, second = _really(ENCODED, codec), _really(2 * ENCODED, codec)
    return first + (size - ENCODED) * (second - first) // ENCODED


def _really(size: int, codec: str) -> int:
    chain = spec.codec(codec)
    vector = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    wire, _ = chain.encode(vector, chain.init(size), Key(0, 1, ""))
    return len(save(wire))
