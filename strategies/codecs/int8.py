"""Eight bits a number, one float32 scale for every 256: x ~ scale * q / 127, rounded to nearest."""

from __future__ import annotations

import numpy as np

from strategies.adapter import Array
from strategies.codecs.codec import Codec, Wire, check

BLOCK = 256


def int8() -> Codec:
    """Send 8-bit numbers, scaled by the largest of each block of 256."""

    def encode(x: Array) -> tuple[Array, Wire]:
        blocks = np.pad(x, (0, -x.size % BLOCK)).reshape(-1, BLOCK)
        scale = np.max(np.abs(blocks), axis=1).astype(np.float32)
        divisor = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
        quantized = np.rint(blocks / divisor * 127).astype(np.int8)
        return quantized.ravel()[: x.size], {"scale": scale}

    def decode(values: Array, side: Wire, size: int) -> Array:
        scale = check(side["scale"], np.float32, -(-size // BLOCK))
        quantized = check(values, np.int8, size)
        if np.any(quantized == -128) or not np.all((scale >= 0) & (scale < np.inf)):
            raise ValueError("int8() makes numbers from -127 to 127 and finite scales from 0 up")
        step = np.repeat(scale, BLOCK)[:size].astype(np.float64) / 127
        return (quantized * step).astype(np.float32)

    return Codec(encode, decode, side=("scale",), narrows=True)
