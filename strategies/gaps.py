"""Which of many numbers were chosen, in few bits: the gaps between rising indices, Golomb-coded (Golomb 1966).

Where k of n are chosen at random a gap is geometric, for which Golomb's code is the shortest that has whole bits for
each gap: within 1 % of the entropy up to a density of a half, 8.1 bits an index at 0.01. A gap g is told as g // m in
unary and g % m in binary, cut short where m is no power of two; m follows from k and n, so it need not travel. However
the indices lie, the code is never longer than ``longest`` says, a twentieth more than by lot.

Golomb's order is changed so that no loop over the elements is needed: first the leading bits of all remainders, then
the last bits of those that have one more, then all unary parts.
"""

from __future__ import annotations

import math

import numpy as np

from strategies.adapter import Array


def encode(index: Array, size: int) -> Array:
    """Return the code of rising indices below ``size``, as bytes."""
    if not index.size:
        return np.zeros(0, np.uint8)
    divisor, bits, short = _code(index.size, size)
    gaps = np.diff(index.astype(np.int64), prepend=-1) - 1
    quotient, rest = np.divmod(gaps, divisor)
    longer = rest >= short
    leading = np.where(longer, (rest + short) >> 1, rest)
    unary = np.zeros(int(quotient.sum()) + index.size, np.uint8)
    unary[np.cumsum(quotient + 1) - 1] = 1
    last = (rest[longer] + short) & 1
    return np.packbits(np.concatenate([_spread(leading, bits), last.astype(np.uint8), unary]))


def decode(code: Array, count: int, size: int) -> Array:
    """Return the ``count`` rising indices below ``size``; raises ``ValueError`` on what ``encode`` cannot have made."""
    most = longest(count, size)
    if code.dtype != np.uint8 or code.ndim != 1 or code.size > most:
        raise ValueError(
            f"got {code.dtype} of shape {code.shape}; indices travel as at most {most} bytes"
        )
    if not count:
        return np.zeros(0, np.int64)
    divisor, bits, short = _code(count, size)
    stream = np.unpackbits(code)
    leading = _gathered(stream[: count * bits], count, bits)
    longer = leading >= short
    at = count * bits + int(np.count_nonzero(longer))
    ends = np.flatnonzero(stream[at:])
    if ends.size != count or code.size != -(-(at + int(ends[-1]) + 1) // 8):
        raise ValueError(f"the code does not hold {count} indices")
    rest = leading.copy()
    rest[longer] = 2 * leading[longer] + stream[count * bits : at] - short
    index = np.cumsum((np.diff(ends, prepend=-1) - 1) * divisor + rest + 1) - 1
    if index[-1] >= size:
        raise ValueError(f"an index is not within the {size} numbers of this update")
    return index


def longest(count: int, size: int) -> int:
    """Return the most bytes that the code of ``count`` indices below ``size`` takes."""
    if not count:
        return 0
    divisor, bits, short = _code(count, size)
    # The gaps share what is not chosen. A bit more costs ``short`` of it, once for each gap, or the whole divisor.
    longer = min(count, (size - count) // short)
    unary = count + (size - count - longer * short) // divisor
    return -(-(count * bits + longer + unary) // 8)


def _code(count: int, size: int) -> tuple[int, int, int]:
    # Golomb's divisor, the leading bits of a remainder, and from which remainder on there is one bit more.
    divisor = max(1, round(math.log(2) * (size / count - 0.5)))
    bits = divisor.bit_length() - 1
    return divisor, bits, 2 ** (bits + 1) - divisor


def _spread(numbers: Array, bits: int) -> Array:
    return (numbers[:, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8).ravel()


def _gathered(stream: Array, count: int, bits: int) -> Array:
    if stream.size != count * bits:
        raise ValueError(f"the code does not hold {count} indices")
    return stream.reshape(count, bits).astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1))
