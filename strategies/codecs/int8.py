"""Eight bits a number, one float32 scale for every 256: x ~ scale * q / 127, rounded to nearest.

Where a study lets silos send less, a silo with a short line sends four bits a number, as ``int4`` does.
"""

from __future__ import annotations

import numpy as np

from strategies import blocks
from strategies.adapter import Array
from strategies.codecs.codec import Choices, Codec, Key, Wire, check
from strategies.codecs.int4 import int4

BITS, LEVELS = 8, 127


def int8(least: int = 8) -> Codec:
    """Send 8-bit numbers, scaled by the largest of each block of 256; at ``least`` 4 bits where a line is short."""
    if least not in (BITS, 4):
        raise ValueError(f"{least=} must be 8 or 4, the fewest bits that a silo may send")

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        steps, scale = blocks.scaled(x, LEVELS)
        return np.rint(steps).astype(np.int8), {"scale": scale}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        scale = check(side["scale"], np.float32, blocks.blocks(size))
        return blocks.restored(check(values, np.int8, size), scale, LEVELS)

    made = Codec(encode, decode, side=("scale",), bits=BITS, beside=blocks.scales)
    if least == BITS:
        return made
    choices = Choices(
        lambda size: range(least, BITS + 1, BITS - least), {4: int4(), 8: made}.__getitem__
    )
    return made._replace(choices=choices)
