"""Label skew: each language is spread over the silos by a Dirichlet draw (Hsu et al. 2019, arXiv 1909.06335)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.partitions.partition import Partition, Piles, at_least_one, by_lang, documents
from tasks.task import Example


def dirichlet(alpha: float = 0.5) -> Partition:
    """Spread each language by shares drawn from Dirichlet(alpha): small is uneven, large is even."""
    if not alpha > 0:
        raise ValueError(f"{alpha=} must be above 0; 0.1 is very uneven, 100 nearly even")

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        names = [f"silo-{i}" for i in range(1, at_least_one(silos) + 1)]
        piles: Piles = {name: [] for name in names}
        draw = np.random.default_rng(seed)
        for spoken in by_lang(examples).values():
            shares = draw.dirichlet(np.full(len(names), alpha))
            groups = documents(spoken, seed)
            owners = np.searchsorted(
                np.cumsum(shares)[:-1], (np.arange(len(groups)) + 0.5) / len(groups)
            )
            for document, owner in zip(groups, owners, strict=True):
                piles[names[owner]] += document
        return piles

    return partition
