"""Each silo holds one source of one language, as real institutions do: stories here, health text there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.partitions.partition import Partition, Piles, by_lang
from tasks.task import Example

NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]")  # silos have folders of their name


def by_source(most: int = 0) -> Partition:
    """Give every pair of language and source a silo of its own.

    With ``most``, only so many sources of each language: those that hold most text. 0 is all of them.
    """
    if most < 0:
        raise ValueError(f"{most=} must be 1 or more sources of each language, or 0 for all")

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        piles: Piles = {}
        for spoken in by_lang(examples).values():
            own: Piles = {}
            for example in spoken:
                name = NOT_A_NAME.sub("_", f"{example.lang}.{example.source or 'text'}")
                own.setdefault(name, []).append(example)
            largest = sorted(own, key=lambda name: (-_characters(own[name]), name))
            piles |= {name: own[name] for name in largest[: most or None]}
        if silos not in (0, len(piles)):
            raise ValueError(
                f"{silos=}, but by_source({most or ''}) makes {len(piles)}: {', '.join(sorted(piles))}; "
                f"give silos={len(piles)}, or 0 for as many as there are"
            )
        return dict(sorted(piles.items()))

    return partition


def _characters(pile: Sequence[Example]) -> int:
    return sum(len(example.learned) for example in pile)
