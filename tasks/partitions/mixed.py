"""Each silo holds mostly one language and a little of the others, as offices of a multilingual country do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from tasks.partitions.partition import Partition, Piles, by_lang, documents
from tasks.task import Example


def mixed(own: float = 0.7, characters: int = 0) -> Partition:
    """Give each language a silo: ``own`` of its text is that language, the rest the others in equal parts.

    ``characters`` is how much a silo trains on in all languages together; 0 deals out everything, and then the parts
    are only as equal as the languages. Held-out text is dealt in the same proportions, all of it.
    """
    if not 0 < own <= 1:
        raise ValueError(f"{own=} must be above 0 and at most 1; 0.7 leaves 30 % for the others")
    if characters < 0:
        raise ValueError(f"{characters=} must be 0 or more; 0 deals out all text")

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        spoken = by_lang(examples)
        if len(spoken) < 2 or silos not in (0, len(spoken)):
            raise ValueError(
                f"{silos=}, but mixed() makes one for each of {len(spoken)} languages ({', '.join(spoken)}); "
                "give 2 languages or more, and silos=0"
            )
        piles: Piles = {f"{lang}-mixed": [] for lang in spoken}
        other = (1 - own) / (len(spoken) - 1)
        for lang, text in spoken.items():
            parts = {name: own if name == f"{lang}-mixed" else other for name in piles}
            _deal(piles, {n: p for n, p in parts.items() if p}, documents(text, seed), characters)
        return piles

    return partition


def _deal(
    piles: Piles, parts: Mapping[str, float], groups: list[list[Example]], characters: int
) -> None:
    """Give each document to the silo that has least for its part, until all silos have what they train on."""
    held = {(name, split): 0.0 for name in parts for split in ("train", "valid", "test")}
    for document in groups:
        split = document[0].split
        most = characters if characters and split == "train" else inf
        least = min(parts, key=lambda name: held[name, split] / parts[name])
        if held[least, split] < most * parts[least]:
            piles[least] += document
            held[least, split] += sum(len(e.learned) for e in document)
