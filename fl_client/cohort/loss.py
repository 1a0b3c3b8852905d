"""The loss of each silo over the frozen head, a piece at a time: no table of all logits is ever kept.

The slope of a piece is worked out while its logits are at hand, and places of which nothing is learned are left out.
Where a silo's token rows are the head's too, they stand in the table while its places are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import linear

from fl_client import model
from fl_client.cohort import layers, tokens
from fl_client.cohort.tokens import Rows
from fl_client.model import Warm
from tasks.encode import IGNORED

PIECE = {"cpu": 1 << 20, "cuda": 1 << 27}  # logits at once: what a core's cache holds
PROBE = 4  # tokens


class Head(NamedTuple):
    """The head's table (vocabulary, width) as it enters a product, written over where there are ``rows`` of silos."""

    table: torch.Tensor
    rows: Rows | None = None


class Taught(NamedTuple):
    """What teachers make of the same places (n, width) and their rows; the share of what is learned from them (K)."""

    shares: torch.Tensor
    hidden: list[torch.Tensor]
    rows: list[Rows | None]


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        wanted: torch.Tensor,
        shares: torch.Tensor,
        head: Head,
        taught: Taught | None,
    ) -> torch.Tensor:
        slopes = torch.zeros_like(hidden)
        nats = torch.zeros(len(hidden), device=hidden.device)
        share = shares.repeat_interleave(len(hidden) // len(shares))[:, None]
        for silo, at in _pieces(wanted, len(shares), head):
            given = hidden[at].to(head.table.dtype)
            logits = linear(given, head.table)
            target, own = wanted[at][:, None], share[at]
            if taught is None:
                slope, cost = _odds(logits, target)
                slope.scatter_add_(1, target, torch.full_like(cost, -1.0))
            else:
                part = taught.shares[at // (len(hidden) // len(shares))][:, None]
                targets = _expected(taught, head, silo, at).mul_(part)
                slope, cost = _soft(logits, targets.scatter_add_(1, target, 1 - part))
            nats[at] = (cost * own)[:, 0].float()
            slope = slope.mul_(own.to(slope.dtype)).to(head.table.dtype)
            slopes[at] = torch.matmul(slope, head.table).to(hidden.dtype)
            if head.rows is not None:
                picked = slope.index_select(1, head.rows.tokens)
                head.rows.slopes[silo].add_(torch.matmul(picked.mT, given))
        ctx.save_for_backward(slopes)
        return nats.view(len(shares), -1).sum(1)

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors  # those of the sum over silos: nobody weighs one silo's loss
        return slopes, None, None, None, None


def _odds(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the odds of all tokens, and what those that came cost in nats (n, 1); bfloat16 becomes float32.

    The odds of the likeliest give the sum that all are divided by, so no logarithm of them is written down.
    """
    wide = torch.float32 if logits.dtype == torch.bfloat16 else logits.dtype
    odds = torch.softmax(logits, -1, dtype=wide)
    below = logits.amax(-1, keepdim=True).to(wide) - logits.gather(1, target).to(wide)
    return odds, below - odds.amax(-1, keepdim=True).log_()


def _soft(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the slope of logits towards target odds (n, vocabulary), and the cross-entropy of these in nats (n, 1)."""
    logs = torch.log_softmax(logits, -1, dtype=targets.dtype)
    cost = -(targets * logs).sum(-1, keepdim=True)
    return logs.exp_().sub_(targets), cost


def _expected(taught: Taught, head: Head, silo: int, at: torch.Tensor) -> torch.Tensor:
    """Return the mean of the teachers' odds at some of a silo's places (n, vocabulary), float32."""
    total: torch.Tensor | float = 0.0
    for hidden, rows in zip(taught.hidden, taught.rows, strict=True):
        _put(head, rows, silo)
        logits = linear(hidden[at].to(head.table.dtype), head.table)
        total = torch.softmax(logits, -1, dtype=torch.float32).add_(total)
    _put(head, head.rows, silo)
    return torch.as_tensor(total) / len(taught.hidden)


def _put(head: Head, rows: Rows | None, silo: int) -> None:
    """Write a silo's token rows into the head's table where there are rows of silos in it."""
    if head.rows is not None and rows is not None:
        head.table[rows.tokens] = rows.weights[silo].to(head.table.dtype)


def _pieces(wanted: torch.Tensor, silos: int, head: Head) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield where something is learned, a piece at a time; where there are rows, silo by silo, its own in the table."""
    most = max(1, PIECE[wanted.device.type] // len(head.table))
    if head.rows is None:
        yield from ((0, at) for at in torch.split((wanted != IGNORED).nonzero()[:, 0], most))
        return
    for silo, own in enumerate(wanted.view(silos, -1)):
        _put(head, head.rows, silo)
        learned = (own != IGNORED).nonzero()[:, 0] + silo * len(own)
        yield from ((silo, at) for at in torch.split(learned, most))


def means(
    hidden: torch.Tensor,
    wanted: torch.Tensor,
    shares: torch.Tensor,
    head: Head,
    taught: Taught | None = None,
) -> torch.Tensor:
    """Return the loss of each silo, of which the sum is to be minimised; gradients of rows are there at once.

    ``hidden`` (n, width) is what the head reads, of one silo after the other, ``wanted`` (n) the tokens that follow;
    ``shares`` (K) is what a token counts in the mean of its silo. Where silos are ``taught`` the loss is the
    cross-entropy of a mixture of what came and what teachers expected, as in ``fl_client.teachers``.
    """
    found: torch.Tensor = _Means.apply(hidden, wanted, shares, head, taught)  # type: ignore[no-untyped-call]
    return found


def nats(hidden: torch.Tensor, wanted: torch.Tensor, silos: int, head: Head) -> torch.Tensor:
    """Return what each place costs, float32 (n), 0 where nothing is asked for; no gradients. Arguments as ``means``."""
    found = torch.zeros(len(hidden), device=hidden.device)
    for _, at in _pieces(wanted, silos, head):
        logits = linear(hidden[at].to(head.table.dtype), head.table).float()
        found[at] = torch.nn.functional.cross_entropy(logits, wanted[at], reduction="none")
    return found


def answering(
    made: Warm, forward: Callable[[torch.Tensor], torch.Tensor]
) -> AbstractContextManager[None]:
    """Let ``forward`` stand in the place of a model's head."""
    return layers.instead({made.model.get_output_embeddings(): forward})


def as_is(hidden: torch.Tensor) -> torch.Tensor:
    """Return what a head would read in place of logits."""
    return hidden


def plain(made: Warm) -> bool:
    """Return whether a model's logits are a product with its head's weights and nothing more, by trying it.

    The adapter is set to its start for that: what somebody trained may hold no numbers.
    """
    model.write(made, {})
    head = tokens.within(made.model.get_output_embeddings())
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    ids = torch.arange(PROBE, device=made.device)[None]
    with torch.inference_mode():
        with answering(made, head.forward):
            whole = made.model(input_ids=ids, use_cache=False).logits
        with answering(made, as_is):
            hidden = made.model(input_ids=ids, use_cache=False).logits
        return torch.allclose(linear(hidden, head.weight), whole, rtol=1e-4, atol=1e-4)
