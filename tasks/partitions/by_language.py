"""Each silo holds one language."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.partitions.partition import Partition, Piles, by_lang, deal, trimmed
from tasks.task import Example


def by_language(silos_per_language: int = 0, scarce: str = "", characters: int = 0) -> Partition:
    """Give every language the same number of silos; 0 divides the study's silos evenly.

    Silos of the languages in ``scarce``, such as ``"kha,lus"``, train on so many ``characters`` each, the others on all
    that they hold. Held-out text is never cut short here.
    """
    few = {name.strip() for name in scarce.split(",") if name.strip()}
    if silos_per_language < 0:
        raise ValueError(f"{silos_per_language=} must be 1 or more, or 0 to divide silos evenly")
    if characters < 0 or bool(characters) != bool(few):
        raise ValueError(
            f"{scarce=} and {characters=} go together: name languages, and 1 or more characters that "
            "their silos train on; or leave out both"
        )

    def partition(examples: Sequence[Example], silos: int, seed: int) -> Piles:
        spoken = by_lang(examples)
        each = silos_per_language or silos // max(1, len(spoken))
        if each * len(spoken) != (silos or each * len(spoken)) or each < 1:
            raise ValueError(
                f"{silos=} cannot hold {len(spoken)} languages ({', '.join(spoken)}) with "
                f"{each or 'at least 1'} silos each; give a multiple of {len(spoken)}"
            )
        if missing := sorted(few - set(spoken)):
            raise ValueError(
                f"{scarce=} names {', '.join(missing)}, but there is text in {', '.join(spoken)}"
            )
        piles: Piles = {}
        for lang, own in spoken.items():
            dealt = deal(own, [f"{lang}-{i}" for i in range(1, each + 1)], seed)
            piles |= {n: _cut(p, characters) for n, p in dealt.items()} if lang in few else dealt
        return piles

    return partition


def _cut(pile: Sequence[Example], characters: int) -> list[Example]:
    train = trimmed([e for e in pile if e.split == "train"], characters)
    return train + [e for e in pile if e.split != "train"]
