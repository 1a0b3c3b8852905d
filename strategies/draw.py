"""Random words that are a function of a text alone: SHA-256 keys Philox (Salmon et al. 2011), a counter generator.

NumPy promises the raw words of Philox to every version and machine, but not what its distributions make of them.
What several silos must draw alike is therefore made of words.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def philox(text: str) -> np.random.Philox:
    """Return the generator that belongs to a text."""
    key = hashlib.sha256(text.encode()).digest()[:16]
    return np.random.Philox(key=np.frombuffer(key, np.uint64))


def words(text: str, count: int) -> NDArray[np.uint64]:
    """Return the first ``count`` words of 64 random bits that belong to a text."""
    return philox(text).random_raw(count)
