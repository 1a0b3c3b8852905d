"""Frozen linear layers with a LoRA pair of each silo beside them, in one step of autograd.

The batch is that of all silos, one after the other. The frozen product sees it whole, the pairs see each silo's part
as one matrix of a batch. Gradients go straight into the cohort's buffer, so no graph hangs on the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
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


def forth(
    given: torch.Tensor, frozen: Sequence[Frozen], pairs: Sequence[Pair | None]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what layers make of the same input (K, n, in), each (K, n, out), and what lies between A and B (K, r, n).

    All A are multiplied at once, and rank comes first: on a CPU a narrow product takes several times as long.
    """
    inner = torch.bmm(_joined(pairs, given), given.mT)
    made = []
    for own, pair, part in zip(frozen, pairs, _parts(inner, pairs), strict=True):
        out = linear(given, own.weight, own.bias)
        if pair is not None:
            out.baddbmm_(part.mT, pair.b.mT, alpha=own.scaling)
        made.append(out)
    return made, inner


def back(
    slopes: Sequence[torch.Tensor],
    given: torch.Tensor,
    inner: torch.Tensor,
    frozen: Sequence[Frozen],
    pairs: Sequence[Pair | None],
) -> torch.Tensor:
    """Add the gradients of B where they go; return what lies between B and A on the way back (K, r, n)."""
    turned = torch.empty_like(inner)
    parts = zip(_parts(inner, pairs), _parts(turned, pairs), strict=True)
    for slope, own, pair, (part, into) in zip(slopes, frozen, pairs, parts, strict=True):
        if pair is not None:
            torch.bmm(pair.b.mT, slope.mT, out=into).mul_(own.scaling)
            pair.b_grad.add_(torch.bmm(part, slope).mT, alpha=own.scaling)
    for pair, grad in zip(pairs, _parts(torch.bmm(turned, given), pairs), strict=True):
        if pair is not None:
            pair.a_grad.add_(grad)
    return turned


def onward(
    slopes: Sequence[torch.Tensor],
    turned: torch.Tensor,
    frozen: Sequence[Frozen],
    pairs: Sequence[Pair | None],
) -> torch.Tensor:
    """Return the slope of the input (K, n, in), from those of what was made of it and what ``back`` returned."""
    found = torch.matmul(slopes[0], frozen[0].weight)
    for slope, own in zip(slopes[1:], frozen[1:], strict=True):
        found.flatten(0, 1).addmm_(slope.flatten(0, 1), own.weight)
    return found.baddbmm_(turned.mT, _joined(pairs, found))


def _joined(pairs: Sequence[Pair | None], like: torch.Tensor) -> torch.Tensor:
    """Return all A (K, r, in) one below the other; of no rank at all where there are none."""
    known = [pair.a for pair in pairs if pair is not None]
    nothing = like.new_empty(len(like), 0, like.shape[-1])
    return known[0] if len(known) == 1 else torch.cat([nothing, *known], 1)


def _parts(whole: torch.Tensor, pairs: Sequence[Pair | None]) -> Sequence[torch.Tensor]:
    ranks = [0 if pair is None else pair.a.shape[1] for pair in pairs]
    return torch.split(whole, ranks, 1)


class _Beside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, spark: torch.Tensor, frozen: Frozen, pair: Pair
    ) -> torch.Tensor:
        given = by_silo(x, len(pair.a)).to(frozen.weight.dtype)
        (out,), inner = forth(given, [frozen], [pair])
        ctx.save_for_backward(given, inner)
        ctx.frozen, ctx.pair, ctx.shape, ctx.dtype = frozen, pair, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given, inner = ctx.saved_tensors
        slope = by_silo(slope, len(given)).to(given.dtype)
        turned = back([slope], given, inner, [ctx.frozen], [ctx.pair])
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        found = onward([slope], turned, [ctx.frozen], [ctx.pair])
        return found.view(ctx.shape).to(ctx.dtype), None, None, None


def by_silo(x: torch.Tensor, silos: int) -> torch.Tensor:
    """Return a batch (blocks, length, width) by silo (K, n, width); raises ``Unfit``."""
    if x.dim() != 3 or len(x) % silos:
        raise Unfit(f"a layer is given {tuple(x.shape)} by {silos} silos")
    return x.reshape(silos, -1, x.shape[-1])


def adapted(made: Warm) -> dict[str, Any]:
    """Return the layers of a model that carry a LoRA pair, by name."""
    return {n: layer for n, layer in made.model.named_modules() if isinstance(layer, LoraLayer)}


def plain(layer: Any) -> bool:
    """Return whether an adapted layer is a product with frozen weights and a LoRA pair beside it, nothing more."""
    return type(layer) is Linear and type(layer.base_layer) is torch.nn.Linear


def frozen(layer: Any, dtype: torch.dtype) -> Frozen:
    """Return what stands still in a linear layer, adapted or not."""
    own, scaling = (
        (layer.base_layer, layer.scaling["default"])
        if isinstance(layer, LoraLayer)
        else (layer, 0.0)
    )
    bias = None if own.bias is None else own.bias.to(dtype)
    return Frozen(own.weight.to(dtype), bias, scaling)


def spark(made: Warm) -> torch.Tensor:
    """Return what lights the graph where nothing below is trained."""
    return torch.zeros((), requires_grad=True, device=made.device)


@contextmanager
def beside(
    made: Warm, pairs: dict[str, Pair], dtype: torch.dtype, without: Collection[str] = ()
) -> Iterator[None]:
    """Let the adapted layers of a model compute with these pairs instead of their own, but those in ``without``.

    ``pairs`` is read at each forward, so another set may stand in it from one step to the next.
    """
    lit, inside = spark(made), tuple(f"{name}." for name in without)
    found = {n: layer for n, layer in adapted(made).items() if not n.startswith(inside)}
    with instead({x: _through(n, frozen(x, dtype), lit, pairs) for n, x in found.items()}):
        yield


@contextmanager
def instead(forwards: dict[Any, Callable[..., Any]]) -> Iterator[None]:
    """Let modules answer with these functions, and with their own again afterwards."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def _through(name: str, own: Frozen, lit: torch.Tensor, pairs: dict[str, Pair]) -> Any:
    def forward(x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _Beside.apply(x, lit, own, pairs[name])  # type: ignore[no-untyped-call]
        return out

    return forward
