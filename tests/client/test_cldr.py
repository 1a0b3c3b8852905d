"""The built-in corpus: eight languages in their own scripts, each text paired with English."""

from __future__ import annotations

import unicodedata

import pytest

from fl_client import cldr, corpus

BLOCKS = {  # first and last code point of the script's block, an oracle apart from character names
    "as": (0x0980, 0x09FF),
    "brx": (0x0900, 0x097F),
    "kok": (0x0900, 0x097F),
    "ks": (0x0600, 0x06FF),
    "mai": (0x0900, 0x097F),
    "ne": (0x0900, 0x097F),
    "or": (0x0B00, 0x0B7F),
    "sat": (0x1C50, 0x1C7F),
}


@pytest.fixture(scope="module")
def rows():
    return list(cldr.rows())


@pytest.fixture(scope="module", params=sorted(BLOCKS))
def own(request, rows):
    """Return one language and its rows."""
    return request.param, [row for row in rows if row["lang"] == request.param]


def test_there_are_eight_languages(rows):
    assert {row["lang"] for row in rows} == set(BLOCKS) == set(cldr.LANGUAGES)


def test_each_language_has_text_enough_to_deal_out(own):
    assert sum(len(row["text"]) for row in own[1]) > 5_000


def test_most_letters_are_of_the_languages_own_script(own):
    lang, rows = own
    first, last = BLOCKS[lang]
    for row in rows:
        letters = [c for c in row["text"] if c.isalpha()]
        mine = [c for c in letters if first <= ord(c) <= last]
        assert len(mine) >= 0.6 * len(letters) > 0, row["text"]


def test_no_text_stands_twice(own):
    texts = [row["text"] for row in own[1]]
    assert len(texts) == len(set(texts))


def test_every_text_is_paired_with_english_and_names_its_source(rows):
    for row in rows:
        assert row.keys() == {"text", "lang", "en", "source"}
        assert row["en"].strip() and row["text"].strip()
        assert row["source"].startswith("cldr-")


def test_english_is_written_in_latin_letters(rows):
    latin = [row for row in rows if all(ord(c) < 0x250 for c in row["en"] if c.isalpha())]
    assert len(latin) > 0.99 * len(rows)


def test_text_is_in_the_composed_form(rows):
    assert all(unicodedata.is_normalized("NFC", row["text"]) for row in rows)


def test_the_rows_are_the_same_each_time_and_through_the_corpus(rows):
    assert list(corpus.read("cldr")) == rows
