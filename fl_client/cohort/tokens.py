"""Each silo's token rows in place of the frozen table's, where a model looks tokens up and in its head if that is tied.

Rows are put where the tokens of a batch need them, so no table is copied for a silo, and a table has no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.utils.other import TrainableTokensWrapper
from torch.nn.functional import embedding

from fl_client.model import Warm


class Rows(NamedTuple):
    """Token rows (K, n, width) of K silos, where their gradients go, and the ids of their tokens (n)."""

    weights: torch.Tensor
    slopes: torch.Tensor
    tokens: torch.Tensor


class _Looked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, ids: torch.Tensor, spark: torch.Tensor, table: torch.Tensor, rows: Rows
    ) -> torch.Tensor:
        out = embedding(ids, table)
        place = torch.full((len(table),), -1, device=ids.device)
        place[rows.tokens] = torch.arange(len(rows.tokens), device=ids.device)
        ctx.rows, ctx.found = rows, []
        for silo, (seen, own) in enumerate(_parts(ids, out, rows)):
            at = place[seen]
            hit = (at >= 0).nonzero()[:, 0]
            own[hit] = rows.weights[silo, at[hit]].to(out.dtype)
            ctx.found.append((hit, at[hit]))
        return out

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[None, ...]:
        rows = ctx.rows
        parts = slope.reshape(len(rows.weights), -1, slope.shape[-1])
        for silo, (hit, at) in enumerate(ctx.found):
            rows.slopes[silo].index_add_(0, at, parts[silo][hit].to(rows.slopes.dtype))
        return None, None, None, None


def _parts(
    ids: torch.Tensor, out: torch.Tensor, rows: Rows
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    silos = len(rows.weights)
    return zip(ids.view(silos, -1), out.view(silos, -1, out.shape[-1]), strict=True)


def within(module: Any) -> Any:
    """Return a module itself, or what stands in PEFT's wrapper around a table with trained rows."""
    return module.token_adapter.base_layer if isinstance(module, TrainableTokensWrapper) else module


def plain(made: Warm) -> bool:
    """Return whether tokens are looked up in a table and nothing is done with what is found."""
    return type(within(made.model.get_input_embeddings())) is torch.nn.Embedding


def tied(made: Warm) -> bool:
    """Return whether the rows that a model trains are its head's too."""
    return isinstance(made.model.get_output_embeddings(), TrainableTokensWrapper)


@contextmanager
def looked_up(made: Warm, held: dict[str, Rows]) -> Iterator[None]:
    """Let a model that trains token rows look up those in ``held["rows"]``, which is read at each forward."""
    outer = made.model.get_input_embeddings()
    if not isinstance(outer, TrainableTokensWrapper):
        yield
        return
    spark = torch.zeros((), requires_grad=True, device=made.device)
    table = within(outer).weight

    def forward(ids: torch.Tensor) -> Any:
        return _Looked.apply(ids, spark, table, held["rows"])  # type: ignore[no-untyped-call]

    outer.forward = forward
    try:
        yield
    finally:
        del outer.forward
