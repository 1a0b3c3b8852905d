"""Two bits a number: its sign, and which of two sizes it has; both sizes are float32 means within every block of 256.

The block's mean size parts the large from the small, and each half comes back as its own mean: for this parting no
other two sizes come nearer. That is sign descent with error feedback (Karimireddy et al. 2019, arXiv 1901.09847)
with one bit more for the size, and about what SparseLoCo sends (Sarfi et al. 2025, arXiv 2508.15706). Small numbers
come back too large, so it always runs under error feedback; behind a ``topk`` sizes differ little.
"""

from __future__ import annotations

import numpy as np

from strategies import blocks
from strategies.adapter import Array
from strategies.codecs.codec import Codec, Key, Wire, check

BITS = 2


def int2() -> Codec:
    """Send signs, and of each block of 256 the mean size of its large and of its small numbers."""

    def encode(x: Array, key: Key) -> tuple[Array, Wire]:
        size = np.abs(x).astype(np.float64)
        count = blocks.sums(np.ones(x.size))
        large = size > blocks.each(blocks.sums(size) / count, x.size)
        many = blocks.sums(large.astype(np.float64))
        upper = blocks.sums(size * large) / np.maximum(many, 1)
        lower = blocks.sums(size * ~large) / (count - many)
        scale = np.stack([lower, upper], axis=1).astype(np.float32).ravel()
        return blocks.pack(2 * large + (x < 0) - 2, BITS), {"scale": scale}

    def decode(values: Array, side: Wire, size: int, key: Key) -> Array:
        scale = check(side["scale"], np.float32, 2 * blocks.blocks(size))
        codes = blocks.unpack(check(values, np.uint8, blocks.packed_size(size, BITS)), BITS, size)
        large, below = (codes + 2) >> 1 == 1, codes & 1 == 1
        lower, upper = scale[::2], scale[1::2]
        some = blocks.sums(large.astype(np.float64)) > 0
        finite = np.all((lower >= 0) & (lower < np.inf) & (upper < np.inf))
        if not finite or np.any(np.where(some, upper < lower, upper != 0)):
            raise ValueError("a block's sizes are no finite numbers from 0 up, the larger one last")
        sizes = np.where(large, blocks.each(upper, size), blocks.each(lower, size))
        return np.where(below, -sizes, sizes)

    return Codec(
        encode,
        decode,
        side=("scale",),
        bits=BITS,
        biased=True,
        keeps_zeros=False,
        beside=lambda size: 2 * blocks.scales(size),
    )
