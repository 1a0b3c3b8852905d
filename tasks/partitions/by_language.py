"""Each silo holds one language."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.partitions.partition import Partition, Piles, by_lang, deal
from tasks.task import Example


def by_language(silos_per_language: int = 0) -> Partition:
    """Give every language the same number of silos; 0 divides the study's silos evenly."""
    if silos_per_language < 0:
        raise ValueError(f"{silos_per_language=} must be 1 or more, or 0 to divide silos evenly")

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        spoken = by_lang(examples)
        each = silos_per_language or silos // max(1, len(spoken))
        if each * len(spoken) != (silos or each * len(spoken)) or each < 1:
            raise ValueError(
                f"{silos=} cannot hold {len(spoken)} languages ({', '.join(spoken)}) with "
                f"{each or 'at least 1'} silos each; give a multiple of {len(spoken)}"
            )
        piles: Piles = {}
        for lang, own in spoken.items():
            piles |= deal(own, [f"{lang}-{i}" for i in range(1, each + 1)], seed)
        return piles

    return partition
