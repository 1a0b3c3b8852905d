"""The largest coordinates only (Stich et al. 2018, arXiv 1809.07599), under error feedback.

Ties go to the lowest index, so the same vector is always encoded to the same bytes.
"""

from __future__ import annotations

import math

import numpy as np

from strategies.adapter import Array
from strategies.codecs.codec import Codec, Wire, check


def topk(density: float = 0.05) -> Codec:
    """Send the share ``density`` of coordinates that are largest, each with its index."""
    if not 0 < density <= 1:
        raise ValueError(f"{density=} must be above 0 and at most 1, the share of numbers sent")

    def kept(size: int) -> int:
        return math.ceil(density * size)

    def encode(x: Array) -> tuple[Array, Wire]:
        largest = np.argsort(-np.abs(x), kind="stable")[: kept(x.size)]
        index = np.sort(largest).astype(np.uint32)
        return x[index], {"index": index}

    def decode(values: Array, side: Wire, size: int) -> Array:
        index = check(side["index"], np.uint32, kept(size))
        if index.size and (index[-1] >= size or np.any(index[1:] <= index[:-1])):
            raise ValueError(f"the indices do not rise within the {size} numbers of this update")
        x = np.zeros(size, np.float32)
        x[index] = check(values, np.float32, index.size)
        return x

    return Codec(encode, decode, side=("index",), biased=True, support_depends_on_data=True)
