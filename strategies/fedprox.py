"""FedProx: FedAvg with a pull towards the round's start (Li et al. 2020, arXiv 1812.06127)."""

from __future__ import annotations

from typing import Any

from strategies.fedavg import fedavg
from strategies.strategy import Memory, Strategy


def fedprox(
    mu: float = 0.01, lora: str = "everyone", rows: str = "language", private: int = 0
) -> Strategy:
    """Average as FedAvg does, each silo held near the round's start with strength ``mu``."""
    if not 0 <= mu < float("inf"):
        raise ValueError(f"{mu=} pushes away from the round's start; give 0 or more")

    def pull(name: str, gradient: Any, weight: Any, anchor: Any, memory: Memory) -> Any:
        return gradient + mu * (weight - anchor)

    plain = fedavg(lora=lora, rows=rows, private=private)
    return plain._replace(local=plain.local._replace(step=pull))
