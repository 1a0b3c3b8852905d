"""FFA-LoRA: A stays at its seeded start, only B is trained and averaged (Sun et al. 2024, arXiv 2403.12313).

The mean of the products is then exactly the product of the means, and A never travels: every silo makes
it from the study's seed.
"""

from __future__ import annotations

from strategies.adapter import part
from strategies.fedavg import fedavg
from strategies.strategy import Strategy


def ffa(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average B and token rows within their scopes; A is frozen and common."""

    def trainable(name: str, round_number: int) -> bool:
        return part(name) != "A"

    plain = fedavg(lora=lora, a="everyone", rows=rows, private=private)
    return plain._replace(local=plain.local._replace(trainable=trainable))
