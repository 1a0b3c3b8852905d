"""Two adapters on one base: one shared, one that never leaves the silo (FedDPA, Yang et al. 2024, arXiv 2403.19211).

Both are trained together and added: s(B1 A1 + B2 A2). Departs from FedDPA, which mixes the two by instance. For
silos of different languages: LoRA is shared, what is the language's own has room at home.
"""

from __future__ import annotations

from strategies.fedavg import fedavg
from strategies.strategy import Strategy


def dual(private: int = 16, lora: str = "everyone", rows: str = "silo") -> Strategy:
    """Average the shared adapter within its scope, beside a private one of rank ``private``."""
    if private < 1:
        raise ValueError(f"{private=} leaves one adapter only; give 1 or more, or use fedavg()")
    return fedavg(lora=lora, rows=rows, private=private)
