"""Plain averaging: the adapter moves by the mean of the updates (FedAvg at lr=1)."""

from __future__ import annotations

from strategies.adapter import Adapter, zip_with
from strategies.outer.outer import Memory, Outer, positive


def mean(lr: float = 1.0) -> Outer:
    """Move by ``lr`` times the mean of the updates."""
    positive(lr=lr)

    def step(adapter: Adapter, delta: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
        return zip_with(lambda x, d: x + lr * d, adapter, delta), memory

    return Outer(lambda adapter: {}, step)
