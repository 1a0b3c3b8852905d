"""Merge and reset: a new subspace every round, in which B alone is trained from zero; then it goes into the base.

A of each round is a function of the study's seed and the round, so it never travels and is the same in all silos: the
mean of the products is the mean of B, a plain sum, as with ``ffa``. What was learned is merged (W0 + s B A), B is zero
again and A another, so the rank of what is learned together grows with the rounds, and there is no residual that could
drift as in FedEx-LoRA. Kin to ReLoRA (Lialin et al. 2023, arXiv 2307.05695) and to the restarts of FLoRA (2409.05976).

A has orthonormal rows that no machine draws differently (``subspace.basis``); in a small linear run of ours
(``tests/strategies/test_drift.py``) an orthonormal basis by QR learned as fast.
"""

from __future__ import annotations

import numpy as np

from strategies import subspace
from strategies.adapter import Adapter, Array, part
from strategies.fedavg import fedavg
from strategies.ffa import ffa
from strategies.merged import beside, grown
from strategies.product import pairs
from strategies.strategy import Memory, Strategy


def merge_reset(lora: str = "everyone", rows: str = "language") -> Strategy:
    """Average B over a seeded A of the round, merge the product, begin anew; token rows as FedAvg does."""
    return fedavg(lora=lora, rows=rows)._replace(
        local=ffa().local,
        mutates_base=True,
        broadcast=beside,
        merge=_merge,
        growth=lambda rank, silos: rank,
        restarts=("A", "B"),
        begin=basis,
    )


def basis(name: str, shape: tuple[int, ...], key: str) -> Array:
    """Return the A of a round, float32 with orthonormal rows, or zeros for B; rows beyond the columns are zero."""
    if part(name) != "A":
        return np.zeros(shape, np.float32)
    return subspace.basis(shape, f"{key}:{name}")


def _merge(adapter: Adapter, memory: Memory) -> Memory:
    return grown(memory, pairs(adapter))
