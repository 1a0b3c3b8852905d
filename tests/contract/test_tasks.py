"""What holds for every task: rows keep their language, no document is both learned and tested."""

from __future__ import annotations

from collections import Counter

import pytest

from tasks.task import letters

TEXT = "অসমীয়া ভাষাৰ এটা বাক্য"


def row(**given):
    """Return a row that serves every task: a text, its language, an English sentence, a question, a label."""
    whole = {"text": TEXT, "lang": "as", "en": "a sentence in Assamese"} | given
    return {"prompt": "a question", "response": whole["text"], "label": "neutral"} | whole


def said(example):
    """Return all that is written in an example, given or learned."""
    return "\n".join([*(turn.text for turn in example.turns), example.prompt, example.text])


@pytest.mark.parametrize("lang", ["as", "mni-Beng", "und"])
def test_an_example_keeps_language_source_document_and_text(task, lang):
    read = task().read(row(lang=lang, source="news", doc="d7", text=f"  {TEXT}\n"))
    assert (read.lang, read.source, read.doc) == (lang, "news", "d7")
    assert TEXT in said(read)
    assert read.text == read.text.strip()
    assert read.learned.endswith(read.text)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\u00a0"])
def test_an_empty_row_gives_no_example(task, text):
    assert task().read(row(text=text)) is None


def test_a_row_is_read_the_same_every_time(task):
    assert task().read(row(doc="d1")) == task().read(row(doc="d1"))


def test_a_row_is_left_as_it_was(task):
    given = row(doc="d1")
    task().read(given)
    assert given == row(doc="d1")


def test_a_document_is_never_in_two_splits(task):
    for doc in range(100):
        read = [task().read(row(text=f"{i}{TEXT}{i}", doc=f"d{doc}")) for i in range(5)]
        assert len({e.split for e in read}) == 1


def test_near_identical_texts_without_a_document_are_never_in_two_splits(task):
    for number in range(100):
        start = f"{chr(97 + number % 26) * 12} {chr(97 + number // 26) * 12}"
        ends = (start, start.upper(), f"{start}!", f"  {start.replace(' ', ' - ')}, and more")
        assert len({letters(text.strip()) for text in ends}) == 1
        assert len({task().read(row(text=text)).split for text in ends}) == 1


def test_about_a_tenth_is_held_out_for_validation_and_a_tenth_for_the_test(task):
    held = Counter(task().read(row(doc=f"d{i}")).split for i in range(2000))
    assert set(held) == {"train", "valid", "test"}
    assert all(150 < held[split] < 250 for split in ("valid", "test"))


def test_a_row_with_the_fields_that_a_task_names_serves_it(task):
    made = task()
    assert made.fields
    for group in made.fields:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": TEXT}]
        held = row(messages=messages)
        assert made.read({name: held[name] for name in (*group, "lang", "en")})


def test_a_task_with_choices_learns_one_of_them_and_scores_them(task):
    made = task()
    if made.choices:
        assert made.read(row()).text in made.choices
        assert made.score is not None


def test_the_scores_of_right_answers_are_a_hundred_each(task):
    made = task()
    if made.score is not None:
        example = made.read(row())
        found = made.score([example.text], [example])
        assert found
        assert all(value == pytest.approx(100) for value in found.values())
