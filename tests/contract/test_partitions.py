"""What holds for every partition: all text is dealt out, once, and no document to two silos."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.task import Example

LANGUAGES, SOURCES, DOCUMENTS = ("as", "brx", "mni-Beng"), ("news", "", "health"), 7
ASKED = range(-2, 14)


def corpus():
    found = [
        Example(f"{lang} {source} {doc} {i} " + "x" * (doc + i), lang, "", source, f"d{doc}", split)
        for lang in LANGUAGES
        for source in SOURCES
        for doc, split in zip(range(DOCUMENTS), ["test", "valid", *["train"] * 5], strict=True)
        for i in range(3)
    ]
    bare = [Example(f"no document {chr(97 + i) * 3} here", "as") for i in range(4)]
    near = [Example("No document -- AAA here!", "as")]
    return found + bare + near + bare[:1]  # the same text twice is two examples


def document(example):
    """Return what example belongs to, by its document or, where there is none, by its letters."""
    alike = "".join(c for c in example.text.casefold() if c.isalpha())
    return example.lang, example.source, example.doc or alike


def dealt(partition, seed=1):
    """Return the piles by number of silos asked for, for all numbers that this partition can do."""
    piles = {}
    for silos in ASKED:
        try:
            piles[silos] = partition()(corpus(), silos, seed)
        except ValueError as refusal:
            assert f"silos={silos}" in str(refusal)  # a refusal names what was given
    assert piles
    return piles


def test_every_example_lands_in_exactly_one_pile(partition):
    for piles in dealt(partition).values():
        assert Counter(e for pile in piles.values() for e in pile) == Counter(corpus())


def test_no_document_lies_in_two_piles(partition):
    for piles in dealt(partition).values():
        owners = {(document(e), name) for name, pile in piles.items() for e in pile}
        assert len(owners) == len({document(e) for e in corpus()}) == 67


def test_there_are_as_many_piles_as_silos_were_asked_for(partition):
    for silos, piles in dealt(partition).items():
        assert len(piles) == (silos or len(piles))
        assert all(name.strip() == name and "/" not in name and name for name in piles)


def test_the_same_seed_deals_the_same_piles_in_the_same_order(partition):
    first, again = dealt(partition), dealt(partition)
    assert [list(p.items()) for p in first.values()] == [list(p.items()) for p in again.values()]


@pytest.mark.parametrize("silos", [-1, -3, -9])
def test_a_number_of_silos_that_cannot_be_is_refused_in_plain_words(partition, silos):
    with pytest.raises(ValueError, match=rf"silos={silos}\b.*;? give ") as refusal:
        partition()(corpus(), silos, 0)
    assert len(str(refusal.value).split()) >= 8
