"""FedAvg on LoRA factors and token rows (McMahan et al. 2017, arXiv 1602.05629; FedIT, arXiv 2305.05644).

Every part is averaged within its own scope. Departs from FedIT in that a scope may be narrower than
everyone: ``lora="language"`` averages inside a language, ``b="silo"`` is FedSA-LoRA's share-A (arXiv
2410.01463), ``private=16`` adds a second adapter of rank 16 that never leaves the silo (``dual``).
"""

from __future__ import annotations

from strategies.scope import scope
from strategies.strategy import Strategy

MOST = 1024  # of a private rank, as of model.rank


def fedavg(
    lora: str = "everyone",
    rows: str = "language",
    a: str = "",
    b: str = "",
    private: int = 0,
) -> Strategy:
    """Average LoRA and token rows, each within its scope.

    Args:
        lora: scope of both LoRA factors.
        rows: scope of the trained token rows.
        a: scope of the A factor where it differs from ``lora``.
        b: scope of the B factor where it differs from ``lora``.
        private: rank of a second adapter that stays in the silo; 0 for none.
    """
    if not 0 <= private <= MOST:
        raise ValueError(f"{private=} is no rank; give 0 for no private adapter, or 1 to {MOST}")
    return Strategy(
        scopes={
            "A": scope(a or lora, "a" if a else "lora"),
            "B": scope(b or lora, "b" if b else "lora"),
            "rows": scope(rows, "rows"),
            "private": "silo",
            "merged": scope(b or lora, "b" if b else "lora"),
            "core": scope(b or lora, "b" if b else "lora"),
        },
        private_rank=private,
    )
