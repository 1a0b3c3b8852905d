"""The loss of each silo over the frozen head, a piece at a time: no table of all logits is ever kept.

The slope of a piece is worked out while its logits are at hand, and rows of which nothing is learned are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import linear

from fl_client.model import Warm
from tasks.encode import IGNORED

PIECE = 1 << 20  # logits at once: what a core's cache and its neighbours' hold
PROBE = 4  # tokens


class _Nats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor
    ) -> torch.Tensor:
        at = (wanted != IGNORED).nonzero()[:, 0]
        slopes = torch.zeros_like(hidden)
        nats = torch.zeros(len(hidden), device=hidden.device)
        for piece in torch.split(at, max(1, PIECE // len(weight))):
            logits = linear(hidden[piece].to(weight.dtype), weight).float()
            target = wanted[piece][:, None]
            logs = torch.log_softmax(logits, dim=-1)
            nats[piece] = -logs.gather(1, target)[:, 0]
            slope = logs.exp_().scatter_add_(1, target, torch.full_like(logs[:, :1], -1.0))
            slopes[piece] = torch.matmul(slope.to(weight.dtype), weight).to(hidden.dtype)
        ctx.save_for_backward(slopes)
        return nats

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return slopes * slope[:, None], None, None


def nats(hidden: torch.Tensor, weight: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the loss of each row of ``hidden`` (n, width) for the tokens ``wanted`` (n), 0 where it is ignored."""
    found: torch.Tensor = _Nats.apply(hidden, weight, wanted)  # type: ignore[no-untyped-call]
    return found


@contextmanager
def headless(made: Warm) -> Iterator[None]:
    """Let a model return what its head would read, in place of logits."""
    head = made.model.get_output_embeddings()
    head.forward = lambda hidden: hidden
    try:
        yield
    finally:
        del head.forward


def plain(made: Warm) -> bool:
    """Return whether a model's logits are a product with its head's weights and nothing more, by trying it."""
    head = made.model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    ids = torch.arange(PROBE, device=made.device)[None]
    with torch.inference_mode():
        whole = made.model(input_ids=ids, use_cache=False).logits
        with headless(made):
            hidden = made.model(input_ids=ids, use_cache=False).logits
    return torch.allclose(linear(hidden, head.weight), whole, rtol=1e-4, atol=1e-4)
