"""IEEE half precision: two bytes a number, 11 bits of it significant. Numbers beyond 65,504 are refused."""

from __future__ import annotations

import numpy as np

from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check


def float16() -> Codec:
    """Send half-precision numbers."""

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        if x.size and np.max(np.abs(x)) > np.finfo(np.float16).max:
            raise ValueError("the update holds a number beyond 65,504; use bfloat16() instead")
        return x.astype(np.float16), {}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        return check(values, np.float16, size).astype(np.float32)

    return Codec(encode, decode, bits=16)
