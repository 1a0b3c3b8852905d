"""Causal attention with rotary positions, and its slopes: whole matrices, and few passes over them.

For short blocks on a CPU; what is done by head is done for all heads that share a key at once. The slope of the odds
takes what the output says of its own (Dao et al. 2022, arXiv 2205.14135, section 3.1), so no odds are summed twice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Turn(NamedTuple):
    """By how much each place is turned: cosine and sine (length, 1, half of a head's width), float32."""

    cos: torch.Tensor
    sin: torch.Tensor


class Kept(NamedTuple):
    """What the slopes need: queries, keys and values (blocks x shared keys, rows, width) and the odds between them."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    odds: torch.Tensor


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
    own = x.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)
    return own.reshape(blocks * groups, heads // groups * length, width)


def heads(x: torch.Tensor, blocks: int, length: int) -> torch.Tensor:
    """Return rows as heads (blocks, length, heads, width)."""
    return x.view(blocks, -1, length, x.shape[-1]).transpose(1, 2)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, Kept]:
    """Return what each row of ``query`` gets of the values at its place and before, as rows, and what slopes need."""
    length = key.shape[1]
    future = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device)
    mask = future.triu_(1).repeat(query.shape[1] // length, 1).expand(len(query), -1, -1)
    scores = torch.baddbmm(mask, query, key.mT)
    odds = torch.softmax(scores.float(), -1).to(value.dtype)
    return torch.bmm(odds, value), Kept(query, key, value, odds)


def slopes(
    slope: torch.Tensor, own: torch.Tensor, kept: Kept
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the slopes of queries, keys and values.

    ``own`` (blocks x groups, rows, 1) is the product of each row's slope with its output.
    """
    query, key, value, odds = kept
    steep = torch.baddbmm(own.expand(-1, -1, key.shape[1]), slope, value.mT, beta=-1).mul_(odds)
    return torch.bmm(steep, key), torch.bmm(steep.mT, query), torch.bmm(odds.mT, slope)
