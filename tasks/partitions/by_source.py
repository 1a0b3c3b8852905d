"""Each silo holds one source of one language, as real institutions do: stories here, health text there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.partitions.partition import Partition, Piles
from tasks.task import Example

NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]")  # silos have folders of their name


def by_source() -> Partition:
    """Give every pair of language and source a silo of its own."""

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        piles: Piles = {}
        for example in examples:
            name = NOT_A_NAME.sub("_", f"{example.lang}.{example.source or 'text'}")
            piles.setdefault(name, []).append(example)
        if silos not in (0, len(piles)):
            raise ValueError(
                f"{silos=}, but by_source() makes {len(piles)}: {', '.join(sorted(piles))}; "
                f"give silos={len(piles)}, or 0 for as many as there are"
            )
        return dict(sorted(piles.items()))

    return partition
