"""Fed-SB: a small core between fixed factors is trained and averaged (Singhal et al. 2025, arXiv 2502.15436).

W0 + s B R A: A and B hold the leading directions of the silos' summed first gradients, each from a sketch of its own
(``survey.py``); R (r x r) is all that travels up, and the mean of the products is the product with the mean of R,
exactly. Any basis of the two subspaces will do: R turns it.

Departs from the paper in three ways. The gradient is sketched, never sent. R starts at zero, not at the gradient's
singular values. And A has rows of the norm of LoRA's start, B columns of norm sqrt(m / r): a step of Adam at R then
moves the product as far as one at the B of ``ffa`` would, so that a rate that suits one suits the other. A and B go
down in every round: silos cannot make them.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter, Array, Layout, part
from strategies.fedavg import fedavg
from strategies.product import B, modules
from strategies.strategy import Strategy
from strategies.subspace import KAIMING, basis, leading
from strategies.survey import Survey

CORE = ".lora_B.core"


def fedsb(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average the cores and token rows within their scopes; both factors are frozen, chosen from first gradients."""
    if lora == "silo":
        raise ValueError(
            "lora='silo' averages no cores; choose a wider scope, or fedavg(lora='silo')"
        )

    def trainable(name: str, round_number: int) -> bool:
        return part(name) not in ("A", "B")

    plain = fedavg(lora=lora, rows=rows, private=private)
    return plain._replace(
        local=plain.local._replace(trainable=trainable),
        domain="core",
        survey=Survey(("A", "B", "core"), _found),
    )


def cores(shapes: Layout) -> Layout:
    """Return the shapes of the cores of an adapter's LoRA pairs, by name."""
    return {module + CORE: (shapes[module + B][1],) * 2 for module in modules(shapes)}


def folded(adapter: Adapter) -> Adapter:
    """Return the adapter with each core multiplied into its B, as a LoRA pair that needs none."""
    plain = {name: x for name, x in adapter.items() if part(name) != "core"}
    for name in adapter.keys() - plain.keys():
        b = name.removesuffix(CORE) + B
        plain[b] = (plain[b].astype(np.float64) @ adapter[name]).astype(np.float32)
    return plain


def _found(sketches: Adapter, start: Adapter, key: str) -> Adapter:
    return {name: _at(name, x, sketches.get(name), key) for name, x in start.items()}


def _at(name: str, x: Array, sketch: Array | None, key: str) -> Array:
    """Return where a tensor begins, from its sketch where there is one, else a seeded subspace."""
    if part(name) == "A":
        rows = basis(x.shape, f"{key}:{name}") if sketch is None else leading(sketch, len(x))
        return rows * np.float32(KAIMING)
    if part(name) == "B":
        wide = x.shape[::-1]
        columns = basis(wide, f"{key}:{name}") if sketch is None else leading(sketch.T, wide[0])
        return np.ascontiguousarray(columns.T * np.float32(np.sqrt(wide[1] / wide[0])))
    return np.zeros_like(x) if part(name) == "core" else x
