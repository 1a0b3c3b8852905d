"""FedSA-LoRA: A is shared, B stays at home (Guo et al. 2024, arXiv 2410.01463).

A learns what is general and B what is the silo's own, in the paper's reading. Departs from the paper in that A may
be shared within a family, a script or any other scope, and that token rows stay at home too: no B ever travels.
"""

from __future__ import annotations

from strategies import scope as scopes
from strategies.fedavg import fedavg
from strategies.strategy import Strategy


def share_a(scope: str = "everyone", private: int = 0) -> Strategy:
    """Average A within ``scope``; B and token rows stay in the silo."""
    if scope == "silo":
        raise ValueError("scope='silo' shares nothing; choose a wider one, such as 'language'")
    return fedavg(lora=scopes.scope(scope, "scope"), b="silo", rows="silo", private=private)
