"""What a partition is: a function from examples to named piles, one a silo. A document never lies in two piles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tasks.task import Example, letters

Piles = dict[str, list[Example]]
# (examples, number of silos asked for or 0, seed) -> piles, in the order of the silos
Partition = Callable[[Sequence[Example], int, int], Piles]


def documents(examples: Sequence[Example], seed: int) -> list[list[Example]]:
    """Return the examples grouped by document (by their first letters where there is none), shuffled."""
    groups: dict[str, list[Example]] = {}
    for example in examples:
        key = example.doc or letters(example.text)
        groups.setdefault(f"{example.lang}/{example.source}/{key}", []).append(example)
    names = sorted(groups)
    order = np.random.default_rng(seed).permutation(len(names))
    return [groups[names[i]] for i in order]


def deal(examples: Sequence[Example], names: Sequence[str], seed: int) -> Piles:
    """Return piles of nearly equal characters: each document goes to the pile that holds least, split by split."""
    piles: Piles = {name: [] for name in names}
    held = {(name, split): 0 for name in names for split in ("train", "valid", "test")}
    for document in documents(examples, seed):
        split = document[0].split
        least = min(names, key=lambda name: held[name, split])
        piles[least] += document
        held[least, split] += sum(len(e.learned) for e in document)
    return piles


def by_lang(examples: Sequence[Example]) -> Piles:
    """Return the examples by language, languages sorted."""
    piles: Piles = {}
    for lang in sorted({e.lang for e in examples}):
        piles[lang] = [e for e in examples if e.lang == lang]
    return piles


def trimmed(examples: Iterable[Example], characters: int) -> list[Example]:
    """Keep examples of each language until so many characters are there; 0 keeps all."""
    kept: list[Example] = []
    held: dict[str, int] = {}
    for example in examples:
        if not characters or held.get(example.lang, 0) < characters:
            kept.append(example)
            held[example.lang] = held.get(example.lang, 0) + len(example.learned)
    return kept


def at_least_one(silos: int) -> int:
    """Return ``silos`` if there is at least one, else raise ``ValueError``."""
    if silos < 1:
        raise ValueError(f"{silos=} leaves nobody to train; give 1 or more")
    return silos
