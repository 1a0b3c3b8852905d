"""A decoder layer as Llama has it, with the LoRA pairs of a cohort, in one step of autograd.

Between its products lie norms, turns, odds and gates, for each of which Torch would go through memory several times and
keep what it read. Here what is small is done in place, what reads the same input is multiplied together, and what costs
one pass, as a norm or a gate, is made again on the way back instead of kept: a third less memory, no time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import silu

from fl_client.cohort import attention, layers
from fl_client.cohort.attention import Kept, Turn
from fl_client.cohort.layers import Frozen, Pair

READ, OUT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("self_attn.o_proj",)
GATED, DOWN = ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)
PRODUCTS = (*READ, *OUT, *GATED, *DOWN)
Pairs = Mapping[str, Pair | None]  # by product, None where it has none


class Norm(NamedTuple):
    """An RMS norm (Zhang and Sennrich 2019, arXiv 1910.07467): its weights (width), and what keeps it from zero."""

    weight: torch.Tensor
    least: float


class Layer(NamedTuple):
    """What stands still in a decoder layer: its products by name, its two norms, its heads' width and their scaling."""

    products: dict[str, Frozen]
    before: Norm
    between: Norm
    width: int
    scaling: float

    def side(self, names: Sequence[str]) -> list[Frozen]:
        """Return the products of these names."""
        return [self.products[name] for name in names]


class _Saved(NamedTuple):
    """What the way back reads: inputs (K, n, width), the sizes by which they were divided, and what came of them."""

    x: torch.Tensor
    size: torch.Tensor
    read: torch.Tensor
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    seen: torch.Tensor
    out: torch.Tensor
    middle: torch.Tensor
    middle_size: torch.Tensor
    gated: torch.Tensor
    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class Whole(torch.autograd.Function):
    """From a batch (blocks, length, width), float32, to the next; gradients of pairs are added where they go."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, lit: torch.Tensor, layer: Layer, pairs: Pairs, turn: Turn
    ) -> torch.Tensor:
        """Return what the layer makes of a batch; ``lit`` is ``layers.spark``."""
        blocks, length, _ = x.shape
        dtype = layer.products[DOWN[0]].weight.dtype
        given = layers.by_silo(x, next(len(pair.a) for pair in pairs.values() if pair is not None))
        size = _size(given, layer.before)
        made, read = layers.forth(
            _normed(given, size, layer.before, dtype), layer.side(READ), _of(pairs, READ)
        )
        query, key, value = (part.view(blocks, length, -1, layer.width) for part in made)
        groups = key.shape[2]
        rows, kept = attention.attend(
            attention.rows(attention.turned(query, turn, layer.scaling), groups, dtype),
            attention.rows(attention.turned(key, turn), groups, dtype),
            attention.rows(value, groups, dtype),
        )
        seen = attention.heads(rows, blocks, length).reshape(
            len(given), -1, query.shape[2] * layer.width
        )
        (added,), out = layers.forth(seen, layer.side(OUT), _of(pairs, OUT))
        middle = given + added
        middle_size = _size(middle, layer.between)
        normed = _normed(middle, middle_size, layer.between, dtype)
        (gate, up), gated = layers.forth(normed, layer.side(GATED), _of(pairs, GATED))
        (added,), down = layers.forth(silu(gate).mul_(up), layer.side(DOWN), _of(pairs, DOWN))
        ctx.save_for_backward(*_Saved(
            given, size, read, kept.query, kept.key, kept.value, seen, out,
            middle, middle_size, gated, gate, up, down,
        ), *kept.odds)  # fmt: skip
        ctx.layer, ctx.pairs, ctx.turn, ctx.shape = layer, pairs, turn, x.shape
        return (middle + added).view(x.shape)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the slope of the batch that went in, None where nobody asks for it."""
        known = len(_Saved._fields)
        saved, odds = _Saved(*ctx.saved_tensors[:known]), ctx.saved_tensors[known:]
        layer, pairs = ctx.layer, ctx.pairs
        slope = _feed_back(slope.reshape(saved.x.shape), saved, layer, pairs)
        parts = _attention_back(slope, saved, odds, ctx)
        sides = layer.side(READ), _of(pairs, READ)
        normed = _normed(saved.x, saved.size, layer.before, saved.seen.dtype)
        turned = layers.back(parts, normed, saved.read, *sides)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        found = layers.onward(parts, turned, *sides)
        whole = slope.add_(_norm_back(found, saved.x, saved.size, layer.before))
        return whole.view(ctx.shape), None, None, None, None


def _feed_back(slope: torch.Tensor, saved: _Saved, layer: Layer, pairs: Pairs) -> torch.Tensor:
    """Return the slope of what lies between attention and the gated products, from that of the whole."""
    dtype = saved.gate.dtype
    opened = silu(saved.gate)
    given = opened * saved.up
    wide = _through([slope.to(dtype)], given, saved.down, layer.side(DOWN), _of(pairs, DOWN))
    up = opened.mul_(wide)
    gate = torch.ops.aten.silu_backward(wide.mul_(saved.up), saved.gate)
    both = layer.side(GATED), _of(pairs, GATED)
    normed = _normed(saved.middle, saved.middle_size, layer.between, dtype)
    found = _through([gate, up], normed, saved.gated, *both)
    return _norm_back(found, saved.middle, saved.middle_size, layer.between).add_(slope)


def _attention_back(
    slope: torch.Tensor, saved: _Saved, odds: tuple[torch.Tensor, ...], ctx: Any
) -> list[torch.Tensor]:
    """Return the slopes of queries, keys and values as they came out of their products."""
    layer, pairs = ctx.layer, ctx.pairs
    blocks, length, _ = ctx.shape
    groups = len(saved.key) // blocks
    dtype = saved.seen.dtype
    seen = _through([slope.to(dtype)], saved.seen, saved.out, layer.side(OUT), _of(pairs, OUT))
    own = (seen * saved.seen).view(blocks, length, -1, layer.width).sum(-1, keepdim=True)
    query, key, value = attention.slopes(
        attention.rows(seen.view(blocks, length, -1, layer.width), groups, dtype),
        attention.rows(own, groups, dtype),
        Kept(saved.query, saved.key, saved.value, odds),
    )
    turn = attention.undone(ctx.turn)
    query, key, value = (attention.heads(part, blocks, length) for part in (query, key, value))
    parts = (attention.turned(query, turn, layer.scaling), attention.turned(key, turn), value)
    return [part.to(dtype).reshape(len(seen), -1, part.shape[2] * layer.width) for part in parts]


def _through(
    slopes: list[torch.Tensor],
    given: torch.Tensor,
    inner: torch.Tensor,
    frozen: list[Frozen],
    pairs: list[Pair | None],
) -> torch.Tensor:
    """Go back through products of one input: return its slope, the gradients of their pairs added."""
    return layers.onward(slopes, layers.back(slopes, given, inner, frozen, pairs), frozen, pairs)


def _of(pairs: Pairs, names: Sequence[str]) -> list[Pair | None]:
    return [pairs[name] for name in names]


def _size(x: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return by what rows are multiplied to have the size that a norm gives them."""
    return x.square().mean(-1, keepdim=True).add_(norm.least).rsqrt_()


def _normed(x: torch.Tensor, size: torch.Tensor, norm: Norm, dtype: torch.dtype) -> torch.Tensor:
    """Return rows at the size that a norm gives them."""
    return (x * size).mul_(norm.weight).to(dtype)


def _norm_back(
    slope: torch.Tensor, x: torch.Tensor, size: torch.Tensor, norm: Norm
) -> torch.Tensor:
    slope = slope * norm.weight  # float32 again
    along = (slope * x).sum(-1, keepdim=True).mul_(size**3 / x.shape[-1])
    return slope.mul_(size).addcmul_(x, along, value=-1)
