"""Four bits a number, two numbers a byte, one float32 scale for every 256: x ~ scale * q / 7, rounded to nearest.

For the values of a ``topk``, which differ little in size, and whose error a later round sends.
"""

from __future__ import annotations

import numpy as np

from strategies import blocks
from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check

BITS, LEVELS = 4, 7


def int4() -> Codec:
    """Send 4-bit numbers, scaled by the largest of each block of 256."""

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        steps, scale = blocks.scaled(x, LEVELS)
        return blocks.pack(np.rint(steps), BITS), {"scale": scale}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        scale = check(side["scale"], np.float32, blocks.blocks(size))
        packed = check(values, np.uint8, blocks.packed_size(size, BITS))
        return blocks.restored(blocks.unpack(packed, BITS, size), scale, LEVELS)

    return Codec(encode, decode, side=("scale",), bits=BITS, beside=blocks.scales)
