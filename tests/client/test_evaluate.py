"""Bits per byte against a slow oracle, and end marks that cost nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import bases, evaluate, model
from tasks.encode import IGNORED
from tasks.task import Example

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)


def slow_bits(of, packed) -> float:
    """Return the bits of the labels, in float64 and token by token."""
    of.eval()
    total = 0.0
    for ids, labels in zip(packed.ids, packed.labels, strict=True):
        with torch.inference_mode():
            logits = of(input_ids=torch.tensor(ids)[None]).logits[0].numpy().astype(np.float64)
        for at in range(len(ids) - 1):
            wanted = labels[at + 1]
            if wanted != IGNORED:
                row = logits[at]
                total -= (row[wanted] - row.max()) - math.log(np.exp(row - row.max()).sum())
    return total / math.log(2)


@pytest.mark.parametrize("length", [8, 32])
def test_bits_are_those_of_a_slow_oracle(made, examples, noisy, length):
    held_out = evaluate.blocks(made, examples, length)
    for adapter in ({}, noisy(made)):
        model.write(made, adapter)
        found = evaluate.bits(made, held_out)
        assert list(found) == ["as", "ne"]
        for lang, packed in held_out.items():
            assert np.isclose(found[lang]["bits"], slow_bits(made.model, packed), rtol=1e-5)


def test_more_blocks_than_a_batch_are_all_counted(made, examples):
    many = [e._replace(lang="as") for e in examples] * 5
    held_out = evaluate.blocks(made, many, 8)
    assert len(held_out["as"].ids) > 2 * evaluate.BATCH
    model.write(made, {})
    found = evaluate.bits(made, held_out)["as"]["bits"]
    assert np.isclose(found, slow_bits(made.model, held_out["as"]), rtol=1e-5)


def test_bytes_are_those_of_the_text_in_utf8(made, examples):
    for lang, scores in evaluate.bits(made, evaluate.blocks(made, examples, 32)).items():
        own = [e.text for e in examples if e.lang == lang]
        assert scores["bytes"] == sum(len(text.encode()) for text in own)
        assert scores["bytes"] > sum(map(len, own))


def test_end_marks_and_prompts_cost_nothing(made, examples):
    prompted = [e._replace(prompt="en: word\nas: ") for e in examples]
    for lang, packed in evaluate.blocks(made, prompted, 32).items():
        learned = packed.labels[packed.labels != IGNORED]
        tokens = made.tokenize([e.text for e in examples if e.lang == lang])
        assert learned.tolist() == [token for text in tokens for token in text]
        assert made.end not in learned
        assert made.end in packed.ids[:, 1:]


def test_the_bits_of_a_text_alone_are_the_sum_over_its_tokens(made):
    model.write(made, {})
    text = "নমস্কাৰ"
    (tokens,) = made.tokenize([text])
    base = bases.model("builtin:tiny").eval()
    with torch.inference_mode():
        logits = base(input_ids=torch.tensor([[made.end, *tokens]])).logits[0].double()
    log_p = torch.log_softmax(logits, -1)
    want = -sum(log_p[i, token].item() for i, token in enumerate(tokens)) / math.log(2)
    found = evaluate.bits(made, evaluate.blocks(made, [Example(text, "as")], 64))
    assert np.isclose(found["as"]["bits"], want, rtol=1e-5)


def test_evaluation_leaves_the_model_as_it_was(made, examples, noisy):
    adapter = noisy(made)
    model.write(made, adapter)
    held_out = evaluate.blocks(made, examples, 32)
    assert evaluate.bits(made, held_out) == evaluate.bits(made, held_out)
    assert made.model.training
    assert all(np.array_equal(x, adapter[n]) for n, x in model.read(made).items())


scores = st.dictionaries(
    st.text("ab", min_size=1, max_size=3),
    st.fixed_dictionaries({"bits": st.floats(0, 1e6), "bytes": st.integers(1, 10**6).map(float)}),
    min_size=1,
)


@quick
@given(scores)
def test_bits_per_byte_are_those_of_all_languages_together(found):
    bits, size = (math.fsum(s[name] for s in found.values()) for name in ("bits", "bytes"))
    assert np.isclose(evaluate.bits_per_byte(found), bits / size)
