"""Subspaces of a matrix's columns or rows: drawn from a seed, or the leading ones of a sketch.

What several silos must draw alike is made of random words (``draw.py``); an orthonormal basis by QR would differ in its
last bits. What the hub finds it sends, so there a plain SVD will do.
"""

from __future__ import annotations

import numpy as np

from strategies import draw
from strategies.adapter import Array

KAIMING = 3**-0.5  # the norm that a row of LoRA's A has at its start: n draws from +-1/sqrt(n)


def basis(shape: tuple[int, ...], key: str) -> Array:
    """Return float32 rows that are orthonormal, the same on every machine; rows beyond the columns are zero.

    Each column belongs to one row, by lot and evenly, with a sign by lot (a count sketch, Charikar et al. 2002).
    """
    rank, columns = shape
    words = draw.words(key, 2 * columns)
    row = np.empty(columns, np.int64)
    row[np.argsort(words[:columns], kind="stable")] = np.arange(columns) % rank
    sign = np.where(words[columns:] >> np.uint64(63), 1.0, -1.0)
    sizes = np.sqrt(np.bincount(row, minlength=rank))
    a = np.zeros(shape, np.float32)
    a[row, np.arange(columns)] = sign / sizes[row]
    return a


def signs(shape: tuple[int, ...], key: str) -> Array:
    """Return a float32 matrix of +1 and -1 by lot, the same on every machine."""
    count = int(np.prod(shape))
    octets = draw.words(key, -(-count // 64)).astype("<u8").view(np.uint8)
    bits = np.unpackbits(octets, count=count, bitorder="little")
    return (1 - 2 * bits.astype(np.float32)).reshape(shape)


def leading(rows: Array, rank: int) -> Array:
    """Return the leading right singular vectors as float32 rows, orthonormal; rows beyond the columns are zero.

    In every row the largest entry by size is positive. What has fewer directions is filled up with any others.
    """
    _, _, vt = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    vt = vt[:rank]
    largest = np.take_along_axis(vt, np.argmax(np.abs(vt), axis=1)[:, None], axis=1)
    vt = vt * np.where(largest < 0, -1.0, 1.0)
    return np.pad(vt, ((0, rank - len(vt)), (0, 0))).astype(np.float32)
