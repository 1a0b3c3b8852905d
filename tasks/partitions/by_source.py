"""Each silo holds one source of one language, as real institutions do: stories here, health text there."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.partitions.partition import Partition, Piles
from tasks.task import Example


def by_source() -> Partition:
    """Give every pair of language and source a silo of its own."""

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        piles: Piles = {}
        for example in examples:
            piles.setdefault(f"{example.lang}-{example.source or 'text'}", []).append(example)
        if silos not in (0, len(piles)):
            raise ValueError(
                f"{silos=}, but by_source() makes {len(piles)}: {', '.join(sorted(piles))}; "
                f"give silos={len(piles)}, or 0 for as many as there are"
            )
        return dict(sorted(piles.items()))

    return partition
