"""Partial pooling: a silo stands between everyone and its family (FedMNMT, Liu et al. 2023, arXiv 2305.12449).

LoRA is merged twice, among everyone and within a narrower scope, each with an optimizer of its own; a silo receives
``everyone + pool * (family - everyone)`` and its change counts for both. FedMNMT has pool=1; the mixture is what
hierarchical models call partial pooling (Gelman and Hill 2006). At pool=0, at pool=1 and where there is one family
only, the run is to the last bit the one without the other level.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Array
from strategies.fedavg import fedavg
from strategies.strategy import Strategy


def partial_pool(
    pool: float = 0.5, lora: str = "family", rows: str = "language", private: int = 0
) -> Strategy:
    """Merge LoRA among everyone and within ``lora`` too; each silo receives a mixture of both.

    Args:
        pool: 0 is everyone's adapter, 1 that of the narrower scope.
        lora: the narrower scope.
        rows: scope of the trained token rows, which are not pooled.
        private: rank of a second adapter that stays in the silo; 0 for none.
    """
    if not 0 <= pool <= 1:
        raise ValueError(f"{pool=} is no mixture; give 0 (everyone) to 1 (the narrower scope)")
    if lora in ("everyone", "silo"):
        raise ValueError(f"{lora=} is nothing to pool; choose 'family', 'script' or 'language'")

    def mix(wide: Array, narrow: Array) -> Array:
        # Exact where either share is zero and where both are equal, which one formula is not.
        apart = narrow - wide
        mixed = wide + pool * apart if pool < 0.5 else narrow - (1 - pool) * apart
        return np.asarray(mixed, wide.dtype)

    plain = fedavg(lora=lora, rows=rows, private=private)
    return plain._replace(wider={"A": "everyone", "B": "everyone"}, mix=mix)
