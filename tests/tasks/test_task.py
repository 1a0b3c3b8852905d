"""Splits are for ever, and test text is never learned."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.causal_lm import causal_lm
from tasks.task import Example, example, letters, split

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("d0", "train"), ("d2", "valid"), ("d7", "test"), ("d10", "valid"), ("অসম", "train")],
)
def test_the_split_of_a_document_is_the_same_for_ever(key, expected):
    assert split(key, "") == expected


@quick
@given(st.text(), st.sampled_from(["", "train", "valid", "validation", "dev", "test"]))
def test_every_text_has_a_split_and_always_the_same(key, given_split):
    assert split(key, given_split) in {"train", "valid", "test"}
    assert split(key, given_split) == split(key, given_split)


@quick
@given(st.text())
def test_a_split_that_a_row_brings_is_kept(key):
    assert {split(key, word) for word in ("valid", "validation", "dev")} == {"valid"}
    assert split(key, "test") == "test"
    assert split(key, "train") in {"train", "valid"}


def test_a_tenth_of_a_given_train_split_becomes_validation_and_none_of_it_test():
    held = Counter(split(f"d{i}", "train") for i in range(2000))
    assert held.keys() == {"train", "valid"}
    assert 150 < held["valid"] < 250


@pytest.mark.parametrize(
    "word", ["Test", "TEST", "testing", "devtest", "eval", "held-out", " test"]
)
def test_text_marked_by_another_word_is_never_learned_as_if_it_were_train(word):
    try:
        splits = {split(f"d{i}", word) for i in range(50)}
    except ValueError as refusal:
        assert word.strip() in str(refusal)  # refusing is as good as keeping it out
    else:
        assert "train" not in splits


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("The cat sat on the mat today", "the CAT, sat on -- the mat, toDAY!"),
        ("অসমীয়া ভাষা", "«অসমীয়া» ভাষা."),
        ("1. Turn the water off before you go", "22) Turn the water off before you go home"),
        ("Straße der Bücher und der Leser", "STRASSE DER BÜCHER UND DER LESER"),
    ],
)
def test_near_identical_texts_share_their_letters(left, right):
    assert letters(left) == letters(right)


@pytest.mark.parametrize("text", ["2024", "!!", "१२३", ""])
def test_a_text_without_letters_stands_for_itself(text):
    assert letters(text) == text


def test_different_texts_differ_in_their_letters():
    assert letters("one thing") != letters("another thing")
    assert len(letters("a" * 100)) == 24


def test_an_example_carries_all_that_its_row_says():
    row = {"text": "x", "lang": "as", "source": "news", "doc": 7, "split": "test", "other": 1}
    assert example(row, "text", "prompt") == Example("text", "as", "prompt", "news", "7", "test")


@pytest.mark.parametrize("missing", [{}, {"doc": None, "source": None, "split": None}])
def test_what_a_row_does_not_say_is_empty_and_the_text_decides_its_split(missing):
    made = example({"lang": "as", **missing}, "some text")
    assert made == Example("some text", "as", split=split(letters("some text"), ""))


def test_causal_lm_learns_the_whole_text_without_a_prompt():
    made = causal_lm().read({"text": "  some text \n", "lang": "as"})
    assert (made.text, made.prompt) == ("some text", "")
    assert causal_lm().score is None
