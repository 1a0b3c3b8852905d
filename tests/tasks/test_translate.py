"""Translation by prompt, scored by chrF++."""

from __future__ import annotations

import pytest

from tasks.task import Example
from tasks.translate import score, translate

SENTENCES = [
    "অসমীয়া ভাষাৰ এটা বাক্য",
    "ᱥᱟᱱᱛᱟᱲᱤ ᱯᱟᱹᱨᱥᱤ ᱛᱮ ᱢᱤᱫᱴᱟᱝ ᱟᱹᱭᱟᱹᱛ",
    "a plain sentence of seven short words",
]
WANTED = [Example(text, "as") for text in SENTENCES]


def test_identical_answers_score_a_hundred():
    assert score(SENTENCES, WANTED) == {"chrf++": pytest.approx(100)}


def test_answers_of_other_letters_score_zero():
    assert score(["zzz"] * 3, [Example("অসমীয়া", "as")] * 3) == {"chrf++": pytest.approx(0)}


def test_a_nearer_answer_scores_higher():
    wanted = [Example("the cat sat on the mat", "en")]
    answers = ["the cat sat on the mat", "the cat sat on a mat", "the cats sit on mats", "a dog"]
    scores = [score([answer], wanted)["chrf++"] for answer in answers]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_words_count_and_not_only_letters():
    wanted = [Example("ab cd ef gh", "en")]
    assert score(["abcdefgh"], wanted)["chrf++"] < score(["ab cd ef gh"], wanted)["chrf++"]


@pytest.mark.parametrize("answers", [SENTENCES[:2], SENTENCES + SENTENCES[:1], []])
def test_more_or_fewer_answers_than_examples_are_refused(answers):
    with pytest.raises(ValueError):  # any words will do
        score(answers, WANTED)


def test_the_source_is_given_and_the_translation_is_learned():
    row = {"text": " অসমীয়া ", "lang": "as", "en": " Assamese\n", "doc": "d1", "source": "news"}
    made = translate().read(row)
    assert made.text == "অসমীয়া"
    assert made.prompt == "en: Assamese\nas: "
    assert (made.lang, made.doc, made.source) == ("as", "d1", "news")


def test_another_source_language_can_be_chosen():
    row = {"text": "অসমীয়া", "lang": "as", "en": "Assamese", "hi": "असमिया"}
    assert translate("hi").read(row).prompt == "hi: असमिया\nas: "


@pytest.mark.parametrize("given", [{}, {"en": None}, {"en": ""}, {"en": "  "}])
def test_a_row_without_a_source_sentence_gives_no_example(given):
    assert translate().read({"text": "অসমীয়া", "lang": "as", **given}) is None


@pytest.mark.parametrize("given", [5, ["a"], True])
def test_a_source_sentence_that_is_no_text_is_named(given):
    with pytest.raises(ValueError, match="its en is .*; give it as a text"):
        translate().read({"text": "অসমীয়া", "lang": "as", "en": given})


def test_all_translations_of_a_sentence_are_in_one_split():
    rows = [{"text": f"{word} বাক্য", "lang": "as", "en": "A sentence."} for word in "abcdefghijkl"]
    assert len({translate().read(row).split for row in rows}) == 1
    others = [row | {"en": f"{row['text'][0]} sentence"} for row in rows]
    assert len({translate().read(row).split for row in others}) > 1
