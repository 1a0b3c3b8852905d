"""What simulated silos hold: one corpus dealt out, nothing twice, and a plain sentence where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import cldr, silo, site
from fl_client.config import ConfigError, Study, from_flat
from tasks.partitions.partition import trimmed
from tasks.task import Example

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def study(**changes) -> Study:
    return from_flat({key.replace("__", "."): value for key, value in changes.items()})


def folder(where: Path, rows: dict[str, int]) -> str:
    """Write so many rows of text in each language and return the folder."""
    for lang, count in rows.items():
        (where / lang).mkdir()
        written = (json.dumps({"text": f"{name(i)} {lang}"}) for i in range(count))
        (where / lang / "text.jsonl").write_text("\n".join(written) + "\n")
    return str(where)


def name(number: int) -> str:
    """Return letters that differ from number to number."""
    return "".join(chr(97 + int(digit)) for digit in f"{number * 7919:07d}")


@pytest.fixture(scope="module")
def eight():
    """Return the silos of the built-in study."""
    return site.simulated(Study())


def test_the_built_in_study_deals_cldr_into_eight_named_silos(eight):
    assert [own.name for own in eight] == [
        f"{lang}-{i}" for lang in ("as", "ne", "or", "sat") for i in (1, 2)
    ]
    for own in eight:
        assert own.train and own.valid and own.test
        spoken = {e.lang for split in own[1:] for e in split}
        assert spoken == {own.name.partition("-")[0]}


def test_every_example_lies_in_the_split_it_says(eight):
    for own in eight:
        for split in site.SPLITS:
            assert {e.split for e in getattr(own, split)} == {split}


def test_no_text_lies_in_two_silos_or_two_splits(eight):
    texts = [e.text for own in eight for split in own[1:] for e in split]
    assert len(texts) == len(set(texts))


def test_no_text_is_lost_where_nothing_is_trimmed():
    sites = site.simulated(study(evaluate__characters=10**9))
    held = {e.text for own in sites for split in own[1:] for e in split}
    assert held == {
        row["text"].strip() for row in cldr.rows() if row["lang"] in {"as", "ne", "or", "sat"}
    }


def test_silos_of_a_language_hold_about_as_much(eight):
    for first, second in zip(eight[::2], eight[1::2], strict=True):
        sizes = [sum(len(e.text) for e in own.train) for own in (first, second)]
        assert max(sizes) < 1.1 * min(sizes)


def test_a_study_is_dealt_the_same_way_again_and_another_seed_otherwise(eight):
    site._deal.cache_clear()
    assert site.simulated(Study()) == eight
    other = site.simulated(study(seed=8))
    assert [own.name for own in other] == [own.name for own in eight]
    assert other != eight


def test_a_seed_never_moves_a_text_to_another_split(eight):
    wide = {"evaluate__characters": 10**9}

    def test_texts(seed):
        sites = site.simulated(study(seed=seed, **wide))
        return {e.text for own in sites for e in own.test}

    assert test_texts(7) == test_texts(8)


def test_held_out_text_is_trimmed_by_silo_language_and_split():
    wide = site.simulated(study(evaluate__characters=10**9))
    sites = site.simulated(study(evaluate__characters=300))
    for own, whole in zip(sites, wide, strict=True):
        assert own.train == whole.train
        for split in ("valid", "test"):
            kept, of = getattr(own, split), getattr(whole, split)
            assert kept == of[: len(kept)]
            assert sum(len(e.text) for e in kept) >= 300 > sum(len(e.text) for e in kept[:-1])


def test_training_text_is_trimmed_where_the_study_says_so():
    for own in site.simulated(study(simulation__characters=500)):
        assert sum(len(e.text) for e in own.train) >= 500
        assert sum(len(e.text) for e in own.train[:-1]) < 500


piles = st.lists(
    st.builds(Example, st.text("abc", max_size=9), st.sampled_from(["as", "ne"])), max_size=20
)


@quick
@given(piles, st.integers(0, 30))
def test_trimming_keeps_the_first_examples_of_each_language(pile, characters):
    kept = trimmed(pile, characters)
    for lang in ("as", "ne"):
        own = [e for e in pile if e.lang == lang]
        want = [
            e
            for i, e in enumerate(own)
            if not characters or sum(len(x.text) for x in own[:i]) < characters
        ]
        assert [e for e in kept if e.lang == lang] == want
    assert len(kept) <= len(pile)


def test_pooled_holds_the_union_of_all_silos(eight):
    (pooled,) = site.simulated(study(simulation__pooled=True))
    assert pooled.name == "pooled"
    for split in site.SPLITS:
        assert getattr(pooled, split) == tuple(e for own in eight for e in getattr(own, split))


def test_examples_are_sorted_into_languages_in_their_order():
    given_ = [Example("c", "ne"), Example("a", "as"), Example("b", "ne")]
    found = site.by_language(given_)
    assert list(found) == ["as", "ne"]
    assert [e.text for e in found["ne"]] == ["c", "b"]


def test_a_missing_language_is_answered_with_those_that_are_there():
    with pytest.raises(ConfigError) as caught:
        site.simulated(study(simulation__languages="as,xx,yy"))
    said = str(caught.value)
    assert "no text for this task in xx, yy in cldr" in said
    assert f"it has {', '.join(sorted(cldr.LANGUAGES))}" in said
    assert "\n" not in said


def test_text_that_does_not_serve_the_task_is_missing_too(tmp_path):
    data = folder(tmp_path, {"as": 40})
    with pytest.raises(ConfigError, match="no text for this task in as in .*it has as"):
        site.simulated(study(task="translate()", simulation__data=data, simulation__languages="as"))


def test_silos_that_do_not_divide_evenly_are_refused():
    with pytest.raises(ConfigError, match="silos=7 cannot hold 4 languages .*give a multiple of 4"):
        site.simulated(study(simulation__silos=7))


def test_too_many_silos_for_the_text_are_refused_in_plain_words(tmp_path):
    data = folder(tmp_path, {"as": 60})
    options = {"simulation__data": data, "simulation__languages": "as"}
    assert len(site.simulated(study(simulation__silos=2, **options))) == 2
    with pytest.raises(ConfigError) as caught:
        site.simulated(study(simulation__silos=50, **options))
    said = str(caught.value)
    assert "has no text in its " in said
    assert said.endswith("split; give it more text or make fewer silos")


def test_a_text_that_stands_twice_in_a_folder_is_held_once(tmp_path):
    data = folder(tmp_path, {"as": 60})
    (tmp_path / "as" / "again.jsonl").write_bytes((tmp_path / "as" / "text.jsonl").read_bytes())
    (own,) = site.simulated(
        study(simulation__data=data, simulation__languages="as", simulation__silos=1)
    )
    texts = [e.text for split in own[1:] for e in split]
    assert len(texts) == len(set(texts)) == 60


def test_no_named_languages_means_all_of_the_folder(tmp_path):
    data = folder(tmp_path, {"as": 60, "ne": 60})
    sites = site.simulated(
        study(simulation__data=data, simulation__languages="", simulation__silos=2)
    )
    assert [own.name for own in sites] == ["as-1", "ne-1"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        site.simulated(study(simulation__data=str(tmp_path / "nowhere")))


def test_translation_never_learns_in_one_silo_what_another_is_tested_on():
    sites = site.simulated(
        study(task="translate()", simulation__languages="ne,mai", simulation__silos=4)
    )
    learned = {e.text for own in sites for e in own.train}
    tested = {e.text for own in sites for e in own.test}
    assert learned and tested
    assert not learned & tested


def told(number: int, turns: int, tail: str = "") -> list[dict[str, str]]:
    """Return a conversation of so many exchanges; ``tail`` makes it a near-duplicate of itself."""
    said = [
        (f"{name(number)} question {i}", f"{name(number)} the answer {i}") for i in range(turns)
    ]
    return [
        {"role": role, "content": text + tail}
        for pair in said
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


CROWDS = {
    "instruct()": lambda n: [
        *({"messages": told(n, turns)} for turns in (1, 2, 3)),
        {"messages": told(n, 2, " !")},
        {"prompt": f"another question {n}", "response": f"«{name(n).upper()}» the answer"},
    ],
    "classify('good,bad')": lambda n: [
        {"text": text, "label": label}
        for text in (f"{name(n)} {name(n)}", f"{name(n).upper()}, {name(n)}", f"{name(n)} {name(n)}, {n}")
        for label in ("good", "bad")
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", CROWDS)
def test_nothing_near_a_text_of_the_test_is_learned_or_validated_on(task, tmp_path):
    """A text is near another if their letters begin alike; of a conversation every turn counts."""
    (tmp_path / "as").mkdir()
    rows = [row for n in range(90) for row in CROWDS[task](n)]
    (tmp_path / "as" / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"simulation__data": str(tmp_path), "simulation__languages": "as"}
    sites = site.simulated(
        study(task=task, simulation__silos=2, evaluate__characters=10**9, **options)
    )
    held = {
        split: {
            name_of(text)
            for own in sites
            for e in getattr(own, split)
            for text in (*(turn.text for turn in e.turns), e.prompt, e.text)
        }
        - {""}
        for split in site.SPLITS
    }
    assert min(map(len, held.values())) > 2
    assert not held["train"] & held["test"]
    assert not held["train"] & held["valid"]
    assert not held["valid"] & held["test"]
    owners = [{name_of(e.doc) for split in own[1:] for e in split} for own in sites]
    assert not owners[0] & owners[1]


def name_of(text: str) -> str:
    """Return which conversation or text of these tests this is of: the seven letters of its name."""
    start = "".join(c for c in text.casefold() if c.isalpha())[:7]
    return start if len(start) == 7 and not start.strip("abcdefghij") else ""


def test_a_label_that_the_study_does_not_know_is_named_before_any_training(tmp_path):
    (tmp_path / "as").mkdir()
    (tmp_path / "as" / "x.jsonl").write_text('{"text": "a", "label": "goood"}\n')
    options = {"simulation__data": str(tmp_path), "simulation__languages": "as"}
    with pytest.raises(ConfigError) as caught:
        site.simulated(study(task="classify('good,bad')", **options))
    assert f"{tmp_path / 'as' / 'x.jsonl'} row 1: label='goood'" in str(caught.value)
    assert "good, bad" in str(caught.value)


@pytest.mark.parametrize(("cap", "rank"), [(0, 8), (2, 2), (8, 8), (99, 8)])
def test_a_real_silo_trains_at_most_the_rank_that_its_settings_say(cap, rank, tmp_path):
    settings = silo.Settings(
        name="clinic-a",
        federation="demo",
        address="hub.example.org:9443",
        data=folder(tmp_path, {"as": 60}),
        base="builtin:tiny",
        base_sha256="0" * 64,
        rank=cap,
    )
    silo.create(tmp_path, settings)
    asked = study(model__rank=8, model__alpha=12)
    own = site.own(asked, site.Place(silo=str(tmp_path)))
    assert own.study.model.rank == rank
    assert own.study.model.alpha / rank == 12 / 8
    assert (own.study == asked) == (rank == 8)
    assert own.home.name.endswith("-rank-2") == (rank == 2)
