"""The algebra of products B A of LoRA factors, without ever forming one of them.

A silo's change is the change of the product; the factors are one of many ways to write it, (B G, G^-1 A) for
every G. Sums are stacks, inner products are traces of r x r Grams, the best approximation of a lower rank
(Eckart and Young 1936) is a small SVD between two thin QR factorisations: time O((m + n) r^2), all in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from strategies.adapter import Adapter, Array

A, B = ".lora_A.weight", ".lora_B.weight"


class Factors(NamedTuple):
    """The product ``b @ a``, held as its factors: ``b`` is m x r, ``a`` is r x n."""

    b: Array
    a: Array


def stack(terms: Iterable[tuple[float, Factors]]) -> Factors:
    """Return the weighted sum of products as one pair; its rank is the sum of the ranks, which may differ."""
    weighted = list(terms)
    b = np.concatenate([weight * np.asarray(f.b, np.float64) for weight, f in weighted], axis=1)
    return Factors(b, np.concatenate([np.asarray(f.a, np.float64) for _, f in weighted]))


def change(start: Factors, moved: Factors) -> Factors:
    """Return the product of ``moved`` less that of ``start``, exact however small: dB A' + B dA, of rank 2 r."""
    db, da = (
        np.subtract(new, old, dtype=np.float64) for new, old in zip(moved, start, strict=True)
    )
    return stack([(1.0, Factors(db, moved.a)), (1.0, Factors(start.b, da))])


def inner(left: Factors, right: Factors) -> float:
    """Return the sum of ``left * right`` over all entries: tr((B_r^T B_l)(A_l A_r^T))."""
    b = right.b.T.astype(np.float64) @ left.b
    return float(np.sum(b * (right.a.astype(np.float64) @ left.a.T)))


def norm(factors: Factors) -> float:
    """Return the Frobenius norm of the product."""
    return float(np.sqrt(max(0.0, inner(factors, factors))))


def truncate(factors: Factors, rank: int) -> Factors:
    """Return the nearest product of this rank, balanced: B^T B = A A^T, diagonal and falling.

    In every column of B the largest entry by size is positive, so the same product gives the same pair. What a
    receiver of a lower rank needs is the first columns and rows; beyond the product's own rank there are zeros.
    """
    if rank < 1:
        raise ValueError(f"{rank=} holds nothing; give 1 or more")
    qb, rb = np.linalg.qr(np.asarray(factors.b, np.float64))
    qa, ra = np.linalg.qr(np.asarray(factors.a, np.float64).T)
    u, sizes, vt = np.linalg.svd(rb @ ra.T, full_matrices=False)
    sizes[sizes <= sizes[0] * np.finfo(np.float64).eps * len(sizes)] = 0  # rounding, no directions
    half = np.sqrt(sizes)
    b, a = (qb @ u) * half, half[:, None] * (vt @ qa.T)
    largest = np.take_along_axis(b, np.argmax(np.abs(b), axis=0)[None], axis=0)[0]
    sign = np.where(largest < 0, -1.0, 1.0)
    spare = max(0, rank - len(sizes))
    b, a = (b * sign)[:, :rank], (sign[:, None] * a)[:rank]
    return Factors(np.pad(b, ((0, 0), (0, spare))), np.pad(a, ((0, spare), (0, 0))))


def canonical(factors: Factors) -> Factors:
    """Return the same product in its balanced gauge, which is the same for (B G, G^-1 A) whatever G was."""
    return truncate(factors, len(factors.a))


def align(factors: Factors, reference: Factors) -> Factors:
    """Return the same product, turned by the rotation that brings both factors nearest to the reference's.

    Orthogonal Procrustes (Schoenemann 1966). A balanced pair stays balanced, and coordinate i goes on meaning what
    it meant in the reference: to other silos, and to the moments that an optimizer kept. Raises ``ValueError``
    where the ranks differ.
    """
    if len(factors.a) != len(reference.a):
        raise ValueError(
            f"a pair of rank {len(factors.a)} cannot be turned to one of rank {len(reference.a)};"
            " truncate it first"
        )
    near = factors.b.T @ np.asarray(reference.b, np.float64)
    u, _, vt = np.linalg.svd(near + factors.a @ np.asarray(reference.a, np.float64).T)
    turn = u @ vt
    return Factors(factors.b @ turn, turn.T @ factors.a)


def nearest(factors: Factors, reference: Factors) -> Factors:
    """Return the nearest product of the reference's rank, turned to it; the reference where the product is zero.

    A product of zero has no directions: both factors would be zero, and never learn again.
    """
    if not norm(factors):
        return reference
    return align(truncate(factors, len(reference.a)), reference)


def modules(names: Iterable[str]) -> list[str]:
    """Return the modules whose LoRA pair is among these tensors; a factor without its other half is in none."""
    known = set(names)
    stems = sorted(name.removesuffix(A) for name in known if name.endswith(A))
    return [module for module in stems if module + B in known]


def pairs(adapter: Mapping[str, Array]) -> dict[str, Factors]:
    """Return the LoRA pairs of an adapter by module, in float64."""
    return {
        module: Factors(
            adapter[module + B].astype(np.float64), adapter[module + A].astype(np.float64)
        )
        for module in modules(adapter)
    }


def tensors(products: Mapping[str, Factors]) -> Adapter:
    """Return the pairs as the float32 tensors of an adapter, by their names: the inverse of ``pairs``."""
    held = {module + A: f.a for module, f in products.items()}
    held |= {module + B: f.b for module, f in products.items()}
    return {name: held[name].astype(np.float32) for name in sorted(held)}
