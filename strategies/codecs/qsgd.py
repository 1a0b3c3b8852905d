"""Few bits a number, rounded up or down by lot so that the mean is right (QSGD, Alistarh et al., arXiv 1610.02132).

A number between two steps becomes the upper one as often as it lies near to it. Where many silos are averaged these
errors cancel, and no memory is needed. We scale by the largest number of each block of 256, not by the norm of the
vector, and send every number, not only those that are not zero. The lots are drawn by seed, round and silo.
"""

from __future__ import annotations

import numpy as np

from strategies import blocks, draw
from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check


def qsgd(bits: int = 8) -> Codec:
    """Send numbers of ``bits`` (8, 4 or 2) bits, rounded by lot without bias."""
    if bits not in (8, 4, 2):
        raise ValueError(f"{bits=} must be 8, 4 or 2, the bits of each number")
    levels = 2 ** (bits - 1) - 1

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        steps, scale = blocks.scaled(x, levels)
        # 32 bits a lot: below 1 also after the sum in float64, so the largest of a block is never passed.
        words = draw.words(f"qsgd:{key.seed}:{key.round}:{key.silo}", -(-x.size // 2))
        steps += words.view(np.uint32)[: x.size] * 2.0**-32
        return blocks.pack(np.floor(steps), bits), {"scale": scale}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        scale = check(side["scale"], np.float32, blocks.blocks(size))
        packed = check(values, np.uint8, blocks.packed_size(size, bits))
        return blocks.restored(blocks.unpack(packed, bits, size), scale, levels)

    # With one step each way the lots of a block may weigh more than the block itself.
    return Codec(
        encode, decode, side=("scale",), contracts=bits > 2, bits=bits, beside=blocks.scales
    )
