"""Every silo holds the same mixture."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.partitions.partition import Partition, Piles, at_least_one, deal
from tasks.task import Example


def iid() -> Partition:
    """Deal documents out evenly, all languages alike."""

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        return deal(examples, [f"silo-{i}" for i in range(1, at_least_one(silos) + 1)], seed)

    return partition
