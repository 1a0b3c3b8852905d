"""FedASK's two sums: the mean of the silos' products exactly, from linear sums of what they send (arXiv 2507.09990).

Every silo sends its product times a random matrix that all draw alike, Y_k = B_k (A_k Omega). An orthonormal basis Q of
the mean Y holds all directions of the mean product M where Y has as many columns as M has ranks (Halko et al. 2011,
arXiv 0909.4061). Asked in that basis, each silo answers P_k = Q^T B_k A_k, and Q times the mean of the P_k is M: in one
basis, averaging factors is averaging products. M is then cut to the adapter's rank as in ``flexlora``, which sees each
silo's factors to the same end; here the hub needs two sums and nothing else, and silos may have several ranks.

Departs from the paper in three ways. Differential privacy is left out. What silos send is the sketch of what training
changed, to which the hub adds that of the start that it knows: a codec then rounds as finely as it does for ``fedavg``.
And Y has a few columns more than M has ranks: with none to spare the seed decides how much rounding is magnified (in
200 runs of ours at float32, up to 2e-4 of M, with four to spare up to 2e-7).
"""

from __future__ import annotations

import numpy as np

from strategies import adapter as algebra
from strategies import draw
from strategies.adapter import Adapter, Array, Layout
from strategies.flexlora import flexlora
from strategies.product import A, B, Factors, change, modules, nearest, pairs, tensors
from strategies.strategy import Memory, Passes, Strategy

SPARE = 4


def sketch(
    size: int = 0, lora: str = "everyone", rows: str = "language", private: int = 0
) -> Strategy:
    """Average the products of the LoRA pairs, from two sums of sketches; token rows as FedAvg does.

    Args:
        size: columns of a sketch. 0 is as many as the ranks of all silos that merge, and a few to spare: the mean is
            then exact, and traffic grows with the number of silos. A smaller one, of the study's rank or more, keeps
            the strongest directions nearly; a layer needs no more than its narrower side, and gets no more.
        lora: scope of both LoRA factors.
        rows: scope of the trained token rows.
        private: rank of a second adapter that stays in the silo; 0 for none.
    """
    if size < 0:
        raise ValueError(
            f"{size=} is no number of columns; give 0 for the exact mean, or 1 and more"
        )
    passes = Passes(
        lambda ranks: size or sum(ranks) + SPARE, _layouts, _held, _first, _ask, _second
    )
    return flexlora(lora=lora, rows=rows, private=private)._replace(
        aggregate=_aggregate, reduction="sum", domain="sketch", passes=passes
    )


def omega(key: str, rows: int, columns: int) -> Array:
    """Return the random matrix that belongs to a text, float64 of mean 0 and variance 1."""
    words = draw.words(key, rows * columns).reshape(rows, columns)
    return ((words >> np.uint64(11)) * 2.0**-53 - 0.5) * 12**0.5


def sketched(product: Factors, drawn: Array) -> Array:
    """Return a product times a matrix, m x s in float64."""
    return np.asarray(product.b @ (product.a @ drawn))


def basis(sketches: Array) -> Array:
    """Return m x s orthonormal columns that span at least the columns given."""
    return np.linalg.qr(sketches)[0]


def answered(product: Factors, basis: Array) -> Array:
    """Return a product in a basis: basis^T (b a), s x n in float64."""
    return np.asarray((basis.T.astype(np.float64) @ product.b) @ product.a)


def _layouts(shapes: Layout, size: int) -> tuple[Layout, Layout]:
    first, second = dict(shapes), Layout()
    for module in modules(shapes):
        (_, n), (m, _) = shapes[module + A], shapes[module + B]
        columns = min(size, m, n)
        first[module + B], second[module + A] = (m, columns), (columns, n)
        del first[module + A]
    return first, second


def _held(start: Adapter, delta: Adapter) -> Adapter:
    ends = pairs(algebra.add(start, delta))
    return tensors({module: change(old, ends[module]) for module, old in pairs(start).items()})


def _first(held: Adapter, size: int, key: str) -> Adapter:
    found = {}
    for module, pair in pairs(held).items():
        (m, _), (_, n) = pair.b.shape, pair.a.shape
        drawn = omega(f"{key}:{module}", n, min(size, m, n))
        found[module + B] = sketched(pair, drawn).astype(np.float32)
    return found


def _ask(mean: Adapter) -> Adapter:
    return {name: basis(x.astype(np.float64)).astype(np.float32) for name, x in mean.items()}


def _second(held: Adapter, asked: Adapter) -> Adapter:
    return {
        module + A: answered(pair, asked[module + B]).astype(np.float32)
        for module, pair in pairs(held).items()
    }


def _aggregate(mean: Adapter, start: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
    merged = pairs(mean)
    new = tensors({module: nearest(merged[module], old) for module, old in pairs(start).items()})
    rest = algebra.pick(mean, mean.keys() - new.keys())
    return rest | algebra.subtract(new, algebra.pick(start, new)), memory
