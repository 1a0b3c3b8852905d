"""Answers: written up to an end mark or a number of tokens, or the likeliest of a task's choices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fl_client import answer, model
from fl_client.config import Study, from_flat
from tasks import encode
from tasks.classify import classify
from tasks.classify import score as score_labels
from tasks.task import Example, Task, Turn
from tasks.translate import score

CHOICES = ("ভাল", "অতি ভাল", "good")


def test_a_task_without_a_score_of_its_own_asks_for_no_answers(made, examples):
    assert answer.scores(made, Task(read=lambda row: None), examples, Study()) == {}


def test_at_most_so_many_answers_of_each_language_are_written(made, examples):
    model.write(made, {})
    seen = []

    def count(answers, chosen):
        seen.append((answers, chosen))
        return {"count": float(len(answers))}

    task = Task(lambda row: None, count)
    study = from_flat({"evaluate.answers": 3, "evaluate.answer_tokens": 4})
    prompted = [e._replace(prompt="en: language\nas: ") for e in examples]
    assert answer.scores(made, task, prompted, study) == {
        "as": {"count": 3.0}, "ne": {"count": 3.0},
    }  # fmt: skip
    for (answers, chosen), lang in zip(seen, ("as", "ne"), strict=True):
        assert chosen == [e for e in prompted if e.lang == lang][:3]
        assert all(len(made.tokenize([text])[0]) <= 8 for text in answers)
    assert made.model.training


def test_of_a_translation_the_first_line_is_scored():
    wanted = [Example("অসমীয়া ভাষা", "as")]
    assert score([" অসমীয়া ভাষা \nas: and more"], wanted)["chrf++"] == pytest.approx(100)


def slow_words(made, ids, tokens):
    """Return what the likeliest tokens after these say, one at a time."""
    written = []
    for _ in range(tokens):
        with torch.inference_mode():
            best = int(
                made.model(input_ids=torch.tensor([[*ids, *written]])).logits[0, -1].argmax()
            )
        if best == made.end:
            break
        written.append(best)
    return made.tokenizer.decode(written)


def test_writing_goes_on_from_the_whole_conversation(made):
    model.write(made, {})
    turns = (Turn("user", "en: language\nas: "), Turn("assistant", "ভাষা"))
    example = Example("", "as", prompt="en: India\nas: ", turns=turns)
    (ids,) = encode.given([example], made.tokenize, made.end)
    assert answer.write(made, [example], 6) == [slow_words(made, ids, 6)]


def slow_choice(made, example, choices):
    """Return the likeliest choice, one at a time and token by token in float64."""
    (before,) = encode.given([example], made.tokenize, made.end)
    reached = []
    for choice in choices:
        told = [*made.tokenize([choice])[0], made.end]
        with torch.inference_mode():
            logits = made.model(input_ids=torch.tensor([[*before, *told]])).logits[0].double()
        logged = torch.log_softmax(logits, -1)
        reached.append(
            sum(float(logged[len(before) + i - 1, token]) for i, token in enumerate(told))
        )
    return choices[int(np.argmax(reached))]


@pytest.mark.parametrize("tokens", [1, 50])
def test_the_choice_is_the_likeliest_with_its_end_mark_whatever_fits_in_a_batch(
    tokens, made, examples, noisy, monkeypatch
):
    monkeypatch.setattr(answer, "TOKENS", tokens)
    asked = [e._replace(prompt=f"{e.text * n}\nlabel:\n") for n, e in enumerate(examples[:3], 1)]
    found = []
    for seed in range(2):
        model.write(made, noisy(made, seed, 0.2))
        found += answer.choose(made, asked, CHOICES)
        assert made.model.training
        made.model.eval()
        assert found[-3:] == [slow_choice(made, e, CHOICES) for e in asked]
        made.model.train()
    assert len(set(found)) > 1  # else any constant would pass


def test_of_a_prompt_longer_than_the_model_the_end_is_read(made):
    model.write(made, {})
    end = Example("neutral", "as", prompt="ছবি\nlabel:\n")
    long = end._replace(prompt="অসমীয়া ভাষা " * 100 + end.prompt)
    assert answer.choose(made, [long], classify().choices)[0] in classify().choices
    (ids,) = encode.given([long], made.tokenize, made.end)
    room = made.model.config.max_position_embeddings - 3
    said = answer.write(made, [long], 3)
    assert said == [slow_words(made, ids[-room:], 3)]
    assert said not in ([slow_words(made, ids, 3)], [slow_words(made, ids[:room], 3)])


def test_all_examples_of_a_task_with_choices_are_scored(made, examples):
    model.write(made, {})
    asked = [e._replace(text="neutral", prompt=f"{e.text}\nlabel:\n") for e in examples]
    seen = []

    def scored(answers, chosen):
        seen.extend(chosen)
        return score_labels(answers, chosen)

    task = classify()._replace(score=scored)
    found = answer.scores(made, task, asked, from_flat({"evaluate.answers": 1}))
    assert list(found) == ["as", "ne"]
    assert seen == asked
    for scores in found.values():
        assert scores["accuracy"] in {0, 25, 50, 75, 100}
