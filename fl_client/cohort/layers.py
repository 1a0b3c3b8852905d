"""A frozen linear layer with a LoRA pair of each silo beside it, in one step of autograd.

The batch is that of all silos, one after the other. The frozen product sees it whole, the pairs see each silo's part
as one matrix of a batch. Gradients go straight into the cohort's buffer, so no graph hangs on the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch.nn.functional import linear

from fl_client.model import Warm

A, B = ".lora_A.weight", ".lora_B.weight"


class Pair(NamedTuple):
    """A (K, r, in) and B (K, out, r) of K silos as they enter a product, and where their gradients go."""

    a: torch.Tensor
    b: torch.Tensor
    a_grad: torch.Tensor
    b_grad: torch.Tensor


class Frozen(NamedTuple):
    """What stands still in a layer: its weights as they enter a product, and the scaling of what is beside it."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    scaling: float


class Unfit(Exception):
    """A layer is not given a batch whose parts are the silos', as where a router picks tokens."""


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, spark: torch.Tensor, frozen: Frozen, pair: Pair
    ) -> torch.Tensor:
        if x.dim() != 3 or len(x) % len(pair.a):
            raise Unfit(f"a layer is given {tuple(x.shape)} by {len(pair.a)} silos")
        given = x.reshape(len(pair.a), -1, x.shape[-1]).to(frozen.weight.dtype)
        out = linear(given, frozen.weight, frozen.bias)
        inner = torch.bmm(pair.a, given.mT)  # rank first: on a CPU up to four times as fast
        out.baddbmm_(inner.mT, pair.b.mT, alpha=frozen.scaling)
        ctx.save_for_backward(given, inner)
        ctx.frozen, ctx.pair, ctx.shape, ctx.dtype = frozen, pair, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, inner = ctx.saved_tensors
        frozen, pair = ctx.frozen, ctx.pair
        slope = slope.reshape(len(pair.a), -1, slope.shape[-1]).to(frozen.weight.dtype)
        turned = torch.bmm(pair.b.mT, slope.mT)
        pair.b_grad.add_(torch.bmm(inner, slope).mT, alpha=frozen.scaling)
        pair.a_grad.add_(torch.bmm(turned, given), alpha=frozen.scaling)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        back = torch.matmul(slope, frozen.weight)
        back.baddbmm_(turned.mT, pair.a, alpha=frozen.scaling)
        return back.view(ctx.shape).to(ctx.dtype), None, None, None


def adapted(made: Warm) -> dict[str, Any]:
    """Return the layers of a model that carry a LoRA pair, by name."""
    return {n: layer for n, layer in made.model.named_modules() if isinstance(layer, LoraLayer)}


def plain(layer: Any) -> bool:
    """Return whether an adapted layer is a product with frozen weights and a LoRA pair beside it, nothing more."""
    return type(layer) is Linear and type(layer.base_layer) is torch.nn.Linear


@contextmanager
def beside(made: Warm, pairs: dict[str, Pair], dtype: torch.dtype) -> Iterator[None]:
    """Let the adapted layers of a model compute with these pairs instead of their own.

    ``pairs`` is read at each forward, so another set may stand in it from one step to the next.
    """
    spark = torch.zeros(
        (), requires_grad=True, device=made.device
    )  # lights the graph where nothing below is trained
    found = adapted(made)
    for name, layer in found.items():
        layer.forward = _through(name, layer, spark, pairs, dtype)
    try:
        yield
    finally:
        for layer in found.values():
            del layer.forward


def _through(
    name: str, layer: Any, spark: torch.Tensor, pairs: dict[str, Pair], dtype: torch.dtype
) -> Any:
    own = layer.base_layer
    bias = None if own.bias is None else own.bias.to(dtype)
    frozen = Frozen(own.weight.to(dtype), bias, layer.scaling["default"])

    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Beside.apply(x, spark, frozen, pairs[name])  # type: ignore[no-untyped-call]
        return out

    return forward
