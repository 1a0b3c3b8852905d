"""Eight bits a number, one float32 scale for every 256: x ~ scale * q / 127, rounded to nearest."""

from __future__ import annotations

import numpy as np

from strategies import blocks
from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check

LEVELS = 127


def int8() -> Codec:
    """Send 8-bit numbers, scaled by the largest of each block of 256."""

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        steps, scale = blocks.scaled(x, LEVELS)
        return np.rint(steps).astype(np.int8), {"scale": scale}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        scale = check(side["scale"], np.float32, blocks.blocks(size))
        return blocks.restored(check(values, np.int8, size), scale, LEVELS)

    return Codec(encode, decode, side=("scale",), narrows=True)
