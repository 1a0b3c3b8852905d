"""Adapters of several LoRA ranks: a narrower one is the first rows of A and the first columns of B.

``adapter.initial`` draws A row by row, so a silo of a lower rank makes the first rows of everyone's seeded start.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strategies.adapter import Adapter, Array, Layout, part


def of(shapes: Layout, rank: int) -> Layout:
    """Return these shapes with LoRA pairs of another rank."""
    return {name: _shape(name, shape, rank) for name, shape in shapes.items()}


def _shape(name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    at = {"A": (0,), "B": (1,), "core": (0, 1)}.get(part(name), ())
    return tuple(rank if i in at else n for i, n in enumerate(shape))


def rank(adapter: Mapping[str, Array]) -> int:
    """Return the rank of an adapter's LoRA pairs, 0 where it has none."""
    return next((x.shape[0] for name, x in adapter.items() if part(name) == "A"), 0)


def cut(adapter: Adapter, rank: int) -> Adapter:
    """Return the adapter at this rank, or as it is where its own is no higher."""
    kept = {name: tuple(map(slice, _shape(name, x.shape, rank))) for name, x in adapter.items()}
    return {name: np.ascontiguousarray(x[kept[name]]) for name, x in adapter.items()}


def pad(adapter: Adapter, shapes: Layout) -> Adapter:
    """Return the adapter with zeros added behind, so that its tensors have these shapes; as it is where they do."""
    return {name: _pad(x, shapes[name]) for name, x in adapter.items()}


def _pad(x: Array, shape: tuple[int, ...]) -> Array:
    if x.shape == shape:
        return x
    return np.pad(x, [(0, to - n) for n, to in zip(x.shape, shape, strict=True)])
