"""Causal attention with rotary positions, and its slopes: whole matrices, and few passes over them.

For short blocks on a CPU; what is done by head is done for all heads that share a key at once. The slope of the odds
takes what the output says of its own (Dao et al. 2022, arXiv 2205.14135, section 3.1), so no odds are summed twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

PIECE = 128  # places that ask at once: of fewer, products are too small


class Turn(NamedTuple):
    """By how much each place is turned: cosine and sine (length, 1, half of a head's width), float32."""

    cos: torch.Tensor
    sin: torch.Tensor


class Kept(NamedTuple):
    """What slopes need: queries, keys and values (blocks x groups, rows, width), and by piece the odds between them.

    Heads that share a key are a group. Its rows are place by place, and at each place head by head.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    odds: tuple[torch.Tensor, ...]


def turned(x: torch.Tensor, turn: Turn, scale: float = 1.0) -> torch.Tensor:
    """Return heads (blocks, length, heads, width) turned by their places, and scaled; float32.

    Turning by the opposite sine is the way back (Su et al. 2021, arXiv 2104.09864, in halves as Llama has them).
    """
    x = x.float()
    out, (cos, sin) = torch.empty_like(x), (scale * part for part in turn)
    first, second = x.chunk(2, -1)
    into = out.chunk(2, -1)
    torch.mul(first, cos, out=into[0]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=into[1]).addcmul_(first, sin)
    return out


def undone(turn: Turn) -> Turn:
    """Return the way back."""
    return Turn(turn.cos, -turn.sin)


def rows(x: torch.Tensor, groups: int, dtype: torch.dtype) -> torch.Tensor:
    """Return heads (blocks, length, heads, width) as the rows of those that share a key (blocks x groups, n, width)."""
    blocks, length, heads, width = x.shape
    own = x.view(blocks, length, groups, heads // groups, width).transpose(1, 2)
    own = own.to(dtype, memory_format=torch.contiguous_format)
    return own.reshape(blocks * groups, heads // groups * length, width)


def heads(x: torch.Tensor, blocks: int, length: int) -> torch.Tensor:
    """Return rows as heads (blocks, length, heads, width)."""
    own = x.view(blocks, len(x) // blocks, length, -1, x.shape[-1]).transpose(1, 2)
    return own.reshape(blocks, length, -1, x.shape[-1])


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, Kept]:
    """Return what each row of ``query`` gets of the values at its place and before, as rows, and what slopes need."""
    out, odds = torch.empty_like(query), []
    for own, seen in _pieces(query, key):
        asked = query[:, own]
        past = torch.baddbmm(_future(own, seen, query, key), asked, key[:, seen].mT)
        odds.append(torch.softmax(past.float(), -1).to(value.dtype))
        torch.bmm(odds[-1], value[:, seen], out=out[:, own])
    return out, Kept(query, key, value, tuple(odds))


def slopes(
    slope: torch.Tensor, own: torch.Tensor, kept: Kept
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the slopes of queries, keys and values.

    ``own`` (blocks x groups, rows, 1) is the product of each row's slope with its output.
    """
    query, key, value, pieces = kept
    found = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
    for (at, seen), odds in zip(_pieces(query, key), pieces, strict=True):
        past, here = own[:, at].expand(odds.shape), slope[:, at]
        steep = torch.baddbmm(past, here, value[:, seen].mT, beta=-1).mul_(odds)
        torch.bmm(steep, key[:, seen], out=found[0][:, at])
        found[1][:, seen].baddbmm_(steep.mT, query[:, at])
        found[2][:, seen].baddbmm_(odds.mT, here)
    return found


def _pieces(query: torch.Tensor, key: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Yield which rows ask at once, and the places that they see: none that lies behind all of them."""
    length = key.shape[1]
    heads = query.shape[1] // length
    for first in range(0, length, PIECE):
        last = min(first + PIECE, length)
        yield slice(first * heads, last * heads), slice(0, last)


def _future(own: slice, seen: slice, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return what is added to the scores of some rows: nothing, and where a place is still to come minus infinity."""
    heads = query.shape[1] // key.shape[1]
    places = torch.arange(own.start, own.stop, device=key.device) // heads
    ahead = torch.arange(seen.stop, device=key.device) > places[:, None]
    mask = torch.zeros(ahead.shape, dtype=key.dtype, device=key.device)
    return mask.masked_fill_(ahead, float("-inf")).expand(len(key), -1, -1)
