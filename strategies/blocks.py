"""Numbers in blocks of 256, each told in steps of the largest of its block: x ~ scale * step / levels.

The largest of a block is a whole number of steps, ``levels`` of them up or down, so it comes back as it was; whole
blocks of one size or of zeros do too. Steps of few bits share bytes.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Array

BLOCK = 256


def scaled(x: Array, levels: int) -> tuple[Array, Array]:
    """Return each number in steps, as float64 from ``-levels`` to ``levels``, and each block's float32 scale."""
    scale = np.maximum.reduceat(np.abs(x), _starts(x.size))
    divisor = np.where(scale > 0, scale, 1).astype(np.float64)
    steps = x / each(divisor, x.size)
    steps *= levels
    return steps, scale


def restored(steps: Array, scale: Array, levels: int) -> Array:
    """Return the float32 numbers again; raises ``ValueError`` unless each block holds its largest."""
    largest = np.maximum.reduceat(np.abs(steps.astype(np.int16)), _starts(steps.size))
    finite = np.all((scale >= 0) & (scale < np.inf))
    if not finite or np.any(largest != np.where(scale > 0, levels, 0)):
        raise ValueError(
            f"a block's scale is no finite number from 0 up, or {levels=} does not fit"
        )
    step = scale.astype(np.float64) / levels
    return (steps * each(step, steps.size)).astype(np.float32)


def sums(x: Array) -> Array:
    """Return the sum of each block."""
    return np.add.reduceat(x, _starts(x.size))


def each(of_blocks: Array, size: int) -> Array:
    """Return for each of so many numbers what belongs to its block."""
    return np.repeat(of_blocks, BLOCK)[:size]


def blocks(size: int) -> int:
    """Return how many blocks so many numbers take."""
    return -(-size // BLOCK)


def scales(size: int) -> int:
    """Return the bytes of the scales of so many numbers."""
    return 4 * blocks(size)


def pack(steps: Array, bits: int) -> Array:
    """Return whole steps as bytes, ``8 / bits`` in each, low bits first, the last byte filled with zero bits."""
    lanes = 8 // bits
    codes = (steps.astype(np.int16) + (1 << bits - 1)).astype(np.uint8)
    codes = np.pad(codes, (0, -codes.size % lanes)).reshape(-1, lanes)
    packed = codes[:, 0].copy()
    for lane in range(1, lanes):
        packed |= codes[:, lane] << bits * lane
    return packed


def unpack(packed: Array, bits: int, size: int) -> Array:
    """Return ``size`` steps as int16; raises ``ValueError`` where the rest of the last byte is not zero."""
    lanes = 8 // bits
    codes = np.empty((packed.size, lanes), np.uint8)
    for lane in range(lanes):
        codes[:, lane] = packed >> bits * lane & (1 << bits) - 1
    flat = codes.ravel()
    if np.any(flat[size:]):
        raise ValueError("the last byte holds more than the numbers of this update")
    return flat[:size].astype(np.int16) - (1 << bits - 1)


def packed_size(size: int, bits: int) -> int:
    """Return the bytes that ``size`` packed steps take."""
    return -(-size * bits // 8)


def _starts(size: int) -> Array:
    return np.arange(0, size, BLOCK)
