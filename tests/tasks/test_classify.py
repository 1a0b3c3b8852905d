"""Classification: labels are the study's words, texts and not labels decide the split, scores against a slow oracle."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.classify import classify, score
from tasks.task import Example

quick = settings(deadline=None, derandomize=True, max_examples=150, database=None)
LABELS = st.sampled_from(["good", "bad", "so so"])
PAIRS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=30)


def row(**given_):
    return {"text": " ভাল ছবি ", "lang": "as", "label": "positive", **given_}


def test_the_text_is_given_and_the_label_is_learned():
    made = classify("positive, negative").read(row())
    assert made.text == "positive"
    assert made.prompt == "ভাল ছবি\nlabel:\n"
    assert classify("positive, negative").choices == ("positive", "negative")


def test_a_prompt_of_the_study_s_own_goes_around_the_text():
    made = classify("positive,negative", prompt="[{text}] {label} = ").read(row(text="{text} {0}"))
    assert made.prompt == "[{text} {0}] {label} = "


def test_labels_are_words_of_any_script_and_several_of_them():
    made = classify("ভাল, বৰ বেয়া").read(row(label=" বৰ বেয়া "))
    assert made.text == "বৰ বেয়া"


def test_a_label_that_a_file_holds_as_a_number_is_the_word_of_that_number():
    assert classify("0,1").read(row(label=0)).text == "0"


def test_an_unknown_label_is_refused_with_what_the_study_knows():
    with pytest.raises(ValueError) as caught:
        classify("positive,negative").read(row(label="Positive"))
    said = str(caught.value)
    assert said.startswith("label='Positive' is unknown; the study knows positive, negative: ")


@pytest.mark.parametrize("labels", ["", "one", "a,,b", "a, a", ","])
def test_labels_that_are_not_two_different_words_are_refused(labels):
    with pytest.raises(ValueError, match="must be two different words or more"):
        classify(labels)


@pytest.mark.parametrize("prompt", ["", "no place", "{text} and {text}", "{ text }"])
def test_a_prompt_without_one_place_for_the_text_is_refused(prompt):
    with pytest.raises(ValueError, match="must hold {text} once"):
        classify(prompt=prompt)


def test_the_same_text_under_two_labels_lies_in_one_split_and_one_label_in_all():
    read = classify().read
    held = Counter()
    for number in range(300):
        text = f"{chr(97 + number % 26) * 12} {chr(97 + number // 26) * 12}"
        near = [text, f"«{text.upper()}»!", f"{text.replace(' ', ', ')} and more"]
        found = [read(row(text=t, label=name)) for t in near for name in ("neutral", "negative")]
        assert len({example.split for example in found}) == 1
        assert len({example.doc for example in found}) == 1
        held[found[0].split] += 1
    assert min(held["train"], held["valid"], held["test"]) > 10


@quick
@given(PAIRS)
def test_scores_are_those_of_a_slow_oracle(pairs):
    answers, wanted = [a for a, _ in pairs], [w for _, w in pairs]
    found = score(answers, [Example(w, "as") for w in wanted])
    assert math.isclose(found["accuracy"], 100 * sum(a == w for a, w in pairs) / len(pairs))
    each = []
    for label in set(answers) | set(wanted):
        table = Counter((a == label, w == label) for a, w in pairs)
        both, extra, missed = table[True, True], table[True, False], table[False, True]
        precision = both / (both + extra) if both + extra else 0
        recall = both / (both + missed) if both + missed else 0
        each.append(2 * precision * recall / (precision + recall) if both else 0)
    assert math.isclose(found["macro_f1"], 100 * sum(each) / len(each))


def test_always_the_commonest_label_has_accuracy_but_little_f1():
    wanted = [Example(w, "as") for w in ["good"] * 9 + ["bad"]]
    found = score(["good"] * 10, wanted)
    assert found["accuracy"] == 90
    assert found["macro_f1"] < 50


@pytest.mark.parametrize(("answers", "wanted"), [([], []), (["a"], ["a", "b"])])
def test_answers_that_are_not_one_to_each_example_are_refused(answers, wanted):
    with pytest.raises(ValueError, match="give one to each"):
        score(answers, [Example(w, "as") for w in wanted])
