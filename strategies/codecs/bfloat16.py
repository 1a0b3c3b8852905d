"""The upper half of float32: two bytes a number, 8 bits of it significant, the full range."""

from __future__ import annotations

import numpy as np

from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check


def bfloat16() -> Codec:
    """Send bfloat16 numbers, rounded to nearest even, as uint16 words."""

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        bits = x.astype(np.float32).view(np.uint32)
        rounded = bits >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += bits  # of finite numbers, which alone are encoded, the sum stays below 2^32
        words = (rounded >> 16).astype(np.uint16)
        if np.any(words & 0x7F80 == 0x7F80):
            raise ValueError("the update holds a number beyond 3.39e38, the largest of bfloat16")
        return words, {}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        words = check(values, np.uint16, size).astype(np.uint32)
        return (words << np.uint32(16)).view(np.float32)

    return Codec(encode, decode, bits=16)
