"""RoLoRA: one factor a round, B in odd rounds and A in even ones (Chen et al. 2025, arXiv 2502.01755).

The factor that rests is the same in every silo, so the mean of the products is the product of the means, as with
``ffa``; but A learns too, every second round. Half of the adapter travels. Token rows are trained in every round.
"""

from __future__ import annotations

from strategies.adapter import part
from strategies.fedavg import fedavg
from strategies.strategy import Strategy


def rolora(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average B in odd rounds and A in even ones; token rows always."""

    def trainable(name: str, round_number: int) -> bool:
        resting = "A" if round_number % 2 else "B"
        return part(name) != resting

    plain = fedavg(lora=lora, rows=rows, private=private)
    return plain._replace(local=plain.local._replace(trainable=trainable))
