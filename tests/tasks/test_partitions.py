"""The partitions one by one: who gets what."""

from __future__ import annotations

import re

import pytest

from tasks.partitions.by_language import by_language
from tasks.partitions.by_source import by_source
from tasks.partitions.dirichlet import dirichlet
from tasks.partitions.iid import iid
from tasks.partitions.mixed import mixed
from tasks.task import Example

CODES = ("as", "brx", "ta")
SPLITS = ["test", "valid", *["train"] * 8]


def corpus(languages=("as", "brx", "ta"), sources=("news", "health"), documents=40):
    return [
        Example(f"{lang} {source} {i} " + "x" * (i % 7), lang, "", source, f"d{i}", SPLITS[i % 10])
        for lang in languages
        for source in sources
        for i in range(documents)
    ]


def longest():
    return max(len(e.text) for e in corpus(documents=200))


def characters(pile, split):
    return sum(len(e.text) for e in pile if e.split == split)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_iid_gives_every_silo_as_much_of_each_split_but_for_one_document(split):
    piles = iid()(corpus(), 5, 3).values()
    held = [characters(pile, split) for pile in piles]
    assert max(held) - min(held) <= max(len(e.text) for e in corpus())


def test_iid_gives_every_silo_every_language_and_another_seed_other_text():
    piles = iid()(corpus(), 4, 3)
    assert list(piles) == ["silo-1", "silo-2", "silo-3", "silo-4"]
    assert all({e.lang for e in pile} == {"as", "brx", "ta"} for pile in piles.values())
    assert iid()(corpus(), 4, 4) != piles


@pytest.mark.parametrize(("each", "silos"), [(0, 3), (0, 6), (2, 6), (2, 0), (1, 0)])
def test_by_language_gives_each_silo_one_language_and_each_language_as_many_silos(each, silos):
    piles = by_language(each)(corpus(), silos, 0)
    expected = (silos or 3 * each) // 3
    assert list(piles) == [f"{c}-{i}" for c in ("as", "brx", "ta") for i in range(1, expected + 1)]
    assert all({e.lang for e in pile} == {name[:-2]} for name, pile in piles.items())


@pytest.mark.parametrize(("each", "silos"), [(0, 2), (0, 4), (0, 0), (2, 3), (1, 6), (2, 5)])
def test_by_language_names_the_languages_where_the_silos_do_not_fit(each, silos):
    with pytest.raises(ValueError, match=rf"silos={silos} .*3 languages \(as, brx, ta\)"):
        by_language(each)(corpus(), silos, 0)


def test_by_language_refuses_a_number_below_zero():
    with pytest.raises(ValueError, match="silos_per_language=-1"):
        by_language(-1)


@pytest.mark.parametrize("each", [1, 2])
def test_silos_of_scarce_languages_train_on_so_many_characters_and_all_else_is_dealt_as_before(
    each,
):
    dealt = by_language(each)(corpus(), 0, 3)
    cut = by_language(each, "brx, ta", 100)(corpus(), 0, 3)
    assert list(cut) == list(dealt)
    for name, pile in cut.items():
        whole = dealt[name]
        if name.startswith("as"):
            assert pile == whole
            continue
        train = [e for e in pile if e.split == "train"]
        assert train == [e for e in whole if e.split == "train"][: len(train)]
        assert characters(train[:-1], "train") < 100 <= characters(train, "train")
        assert characters(whole, "train") > characters(train, "train")
        for split in ("valid", "test"):
            assert [e for e in pile if e.split == split] == [e for e in whole if e.split == split]


@pytest.mark.parametrize(("scarce", "held"), [("ta", 0), ("", 100), ("ta", -1), (" , ", 5)])
def test_by_language_refuses_scarce_languages_without_characters_and_the_other_way_round(
    scarce, held
):
    with pytest.raises(ValueError, match="go together"):
        by_language(1, scarce, held)


def test_by_language_names_a_scarce_language_of_which_there_is_no_text():
    with pytest.raises(ValueError, match=r"names kha, lus, but there is text in as, brx, ta"):
        by_language(1, "lus,ta,kha", 100)(corpus(), 0, 0)


@pytest.mark.parametrize("silos", [0, 6])
def test_by_source_gives_each_silo_one_source_of_one_language(silos):
    piles = by_source()(corpus(), silos, 0)
    assert list(piles) == sorted(piles)
    assert len(piles) == 6
    for name, pile in piles.items():
        assert {f"{e.lang}.{e.source}" for e in pile} == {name}


def test_by_source_names_the_silos_it_makes_where_another_number_was_asked_for():
    with pytest.raises(ValueError, match=r"silos=5, .* 6: as.health, .*give silos=6"):
        by_source()(corpus(), 5, 0)


def test_by_source_never_mixes_two_languages():
    whose = [("mni-Beng", "news"), ("mni", "Beng-news")]
    examples = [Example("some text", lang, source=source) for lang, source in whose]
    piles = by_source()(examples, 0, 0)
    assert sorted(map(len, piles.values())) == [1, 1]


def test_by_source_keeps_the_sources_of_most_text_where_only_some_are_asked_for():
    large = [Example("x" * 50 + f" {i}", "as", source="law", doc=f"l{i}") for i in range(40)]
    piles = by_source(1)(corpus(sources=("news", "health")) + large, 0, 0)
    assert list(piles) == ["as.law", "brx.health", "ta.health"]
    assert sorted(piles["as.law"], key=lambda e: e.doc) == sorted(large, key=lambda e: e.doc)
    with pytest.raises(ValueError, match="most=-1"):
        by_source(-1)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_mixed_gives_each_silo_its_language_and_a_little_of_the_others(split):
    piles = mixed(0.6)(corpus(documents=200), 0, 3)
    assert list(piles) == ["as-mixed", "brx-mixed", "ta-mixed"]
    for name, pile in piles.items():
        held = {lang: characters([e for e in pile if e.lang == lang], split) for lang in CODES}
        for lang in CODES:
            share = 0.6 if name == f"{lang}-mixed" else 0.2
            assert held[lang] / sum(held.values()) == pytest.approx(share, abs=0.06)


def test_mixed_stops_at_the_text_a_silo_trains_on_and_keeps_all_that_is_held_out():
    whole, cut = (mixed(0.5, most)(corpus(documents=200), 3, 3) for most in (0, 400))
    for name, pile in cut.items():
        lang = name.removesuffix("-mixed")
        own = characters([e for e in pile if e.lang == lang], "train")
        assert 200 <= own < 200 + longest() and characters(pile, "train") < 400 + 3 * longest()
        assert characters(pile, "test") == characters(whole[name], "test")


def test_mixed_keeps_silos_apart_where_all_their_text_is_their_own():
    piles = mixed(1.0)(corpus(), 0, 0)
    assert all({e.lang for e in pile} == {name[:-6]} for name, pile in piles.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"own": 0.0}, "own=0.0"), ({"own": 1.5}, "own=1.5"), ({"characters": -1}, "characters=-1")],
)
def test_mixed_refuses_parts_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        mixed(**options)


def test_mixed_names_the_languages_where_the_silos_do_not_fit():
    with pytest.raises(ValueError, match=r"silos=5, .* 3 languages \(as, brx, ta\)"):
        mixed()(corpus(), 5, 0)
    with pytest.raises(ValueError, match="2 languages or more"):
        mixed()(corpus(languages=("as",)), 0, 0)


def unevenness(piles, lang):
    held = [sum(e.lang == lang for e in pile) for pile in piles.values()]
    return max(held) / sum(held)


def test_dirichlet_is_uneven_for_a_small_alpha_and_even_for_a_large_one():
    small, large = (dirichlet(alpha)(corpus(), 4, 1) for alpha in (0.05, 1e4))
    for lang in ("as", "brx", "ta"):
        assert unevenness(large, lang) < 0.3
    assert max(unevenness(small, lang) for lang in ("as", "brx", "ta")) > 0.8


def test_dirichlet_keeps_every_silo_even_one_that_gets_nothing():
    piles = dirichlet(0.01)(corpus(documents=3), 9, 1)
    assert list(piles) == [f"silo-{i}" for i in range(1, 10)]
    assert not all(piles.values())


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_dirichlet_refuses_an_alpha_that_is_not_above_zero(alpha):
    with pytest.raises(ValueError, match=re.escape(f"{alpha=}")):
        dirichlet(alpha)


@pytest.mark.parametrize("make", [iid, dirichlet])
def test_no_silo_at_all_is_refused(make):
    with pytest.raises(ValueError, match="silos=0 leaves nobody to train"):
        make()(corpus(), 0, 0)
