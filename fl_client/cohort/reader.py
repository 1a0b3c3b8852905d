"""A model that reads the texts of several silos at once, each under its own adapter, as far as its head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from fl_client.cohort import llama, loss, tokens
from fl_client.cohort.buffers import Buffers
from fl_client.cohort.layers import Pair
from fl_client.cohort.loss import Head
from fl_client.cohort.tokens import Rows
from fl_client.model import Warm


class Reader(NamedTuple):
    """The model, its head's table as it enters products, and what its layers and its tokens read at each forward."""

    made: Warm
    table: torch.Tensor
    pairs: dict[str, Pair]
    rows: dict[str, Rows]

    def read_with(self, pairs: dict[str, Pair], rows: Rows | None) -> Head:
        """Let the model read with these pairs and rows of silos from now on; return its head for them."""
        self.pairs.update(pairs)
        if rows is not None:
            self.rows["rows"] = rows
        return Head(self.table, rows if tokens.tied(self.made) else None)

    def wear(self, held: Buffers, silos: int) -> Head:
        """Let the model read for the first so many silos of these buffers; return its head for them."""
        listed = self.made.peft_config["trainable_token_indices"] or []
        rows = held.rows(silos, torch.tensor(listed, device=self.made.device))
        return self.read_with(held.pairs(silos, self.table.dtype), rows)

    def hidden(self, ids: torch.Tensor) -> torch.Tensor:
        """Return what the head reads of a batch (n, width): as many blocks of one silo as of the other."""
        half = self.table.dtype == torch.bfloat16
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
            found: torch.Tensor = self.made.model(input_ids=ids, use_cache=False).logits
        return found.flatten(0, 1)


@contextmanager
def reading(made: Warm, half: bool) -> Iterator[Reader]:
    """Let a model read for a cohort, its products in bfloat16 if ``half``; afterwards it is as it was."""
    table = tokens.within(made.model.get_output_embeddings()).weight
    dtype = torch.bfloat16 if half else table.dtype
    reader = Reader(made, table.detach().to(dtype, copy=tokens.tied(made)), {}, {})
    with (
        llama.beside(made, reader.pairs, dtype),
        tokens.looked_up(made, reader.rows),
        loss.answering(made, loss.as_is),
    ):
        yield reader
