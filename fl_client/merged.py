"""The merged part of an adapter in the model: a frozen LoRA slice, computed beside each layer that it belongs to.

The base's weights are never touched, so an adapter without a merged part finds them bit for bit as they were loaded,
whatever their type: float32, bfloat16, 4 bits, or sharded over several ranks. The price is arithmetic that grows with
the merged rank R: 2 R (m + n) more a token and layer, where the layer itself takes 2 m n.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import linear
from torch.utils.hooks import RemovableHandle

from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.merged import A, B, held
from strategies.product import A as A_TRAINED
from strategies.product import B as B_TRAINED
from strategies.product import modules


class Slices(NamedTuple):
    """What is merged into a model now: its tensors by name, and the handles that take it off again."""

    tensors: Adapter
    handles: list[RemovableHandle]


def fits(merged: Adapter, start: Adapter) -> bool:
    """Return whether these are merged pairs of modules of this adapter, of shapes and ranks that they can have."""
    known, pairs = set(modules(start)), {name.removesuffix(A).removesuffix(B) for name in merged}
    if not pairs <= known or merged.keys() != {pair + half for pair in pairs for half in (A, B)}:
        return False
    return all(
        _rank(b.shape, a.shape, len(start[pair + B_TRAINED]), start[pair + A_TRAINED].shape[1])
        for pair, (b, a) in held(merged).items()
    )


def _rank(b: tuple[int, ...], a: tuple[int, ...], m: int, n: int) -> bool:
    return len(a) == 2 and 1 <= a[0] <= min(m, n) and (b, a) == ((m, a[0]), (a[0], n))


def attach(
    slices: Slices, model: Any, merged: Adapter, scaling: float, device: torch.device
) -> None:
    """Put a merged part in place of the one that was there; an empty one leaves the base alone."""
    if algebra.layout(merged) == algebra.layout(slices.tensors) and all(
        np.array_equal(x, slices.tensors[name]) for name, x in merged.items()
    ):
        return
    for handle in slices.handles:
        handle.remove()
    slices.handles.clear()
    slices.tensors.clear()
    slices.tensors.update(merged)
    for module, (b, a) in held(merged).items():
        up, down = (torch.tensor(x, dtype=torch.float32, device=device) for x in (b, a))
        layer = model.get_submodule(module)
        slices.handles.append(layer.register_forward_hook(beside(up, down, scaling)))


def beside(b: torch.Tensor, a: torch.Tensor, scaling: float) -> Callable[..., torch.Tensor]:
    """Return a hook that adds the slice to what a layer gives, in the order of PEFT's own arithmetic."""

    def add(layer: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        return (out + linear(linear(given[0].to(a.dtype), a), b) * scaling).to(out.dtype)

    return add
