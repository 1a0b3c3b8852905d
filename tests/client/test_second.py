"""The second pass of a round at a real silo: what it answers, from what it holds, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import memory, messages
from strategies.adapter import layout, part, under, unflatten
from strategies.sketch import omega, sketch

from .test_app import Hub, blob

SIZE = 5
TWO = sketch().passes
SENT = {"strategy": "sketch()", "codec": "float32()"}


@pytest.fixture
def hub(tmp_path) -> Hub:
    return Hub(tmp_path, **SENT)


def begin(hub, after=0):
    """Train a round; return its order, what was sent, and a basis to ask in."""
    order = hub.order(after, sketch=SIZE)
    reply = hub.ask("train", order, hub.after_one() if after else None)
    assert reply.code == ""
    shapes, _ = TWO.layouts(layout(hub.start), SIZE)
    draw = np.random.default_rng(after)
    asked = {
        name: np.linalg.qr(draw.normal(size=shape))[0].astype(np.float32)
        for name, shape in shapes.items()
        if part(name) == "B"
    }
    return order, unflatten(reply.arrays["values"], shapes), asked


def test_both_passes_tell_what_training_changed_and_no_factor_leaves(hub):
    order, sent, asked = begin(hub)
    reply = hub.ask("train.second", order, asked)
    assert (reply.code, reply.metrics, reply.facts) == ("", {}, {"silo": "as-1", "round": 1})
    answers = unflatten(reply.arrays["values"], TWO.layouts(layout(hub.start), SIZE)[1])
    held = under("pass/", memory.held(hub.home(), 1))
    assert {part(name) for name in sent} == {"B", "rows"} and {*map(part, answers)} == {"A"}
    for name, answer in answers.items():
        up = name.replace("lora_A", "lora_B")
        change = held[up].astype(np.float64) @ held[name]
        assert change.any()
        module = name.removesuffix(".lora_A.weight")
        drawn = omega(f"{hub.study.seed}:1:{module}", change.shape[1], sent[up].shape[1])
        np.testing.assert_allclose(sent[up], change @ drawn, rtol=1e-4, atol=1e-8)
        np.testing.assert_allclose(answer, asked[up].T @ change, rtol=1e-4, atol=1e-8)


def test_a_silo_that_starts_anew_between_the_passes_answers_the_same(hub, tmp_path):
    order, _, asked = begin(hub)
    first = hub.message("train.second", order, asked)
    assert blob(Hub(tmp_path, **SENT).message("train.second", order, asked)) == blob(first)
    begin(hub, after=1)
    assert blob(hub.message("train.second", order, asked)) == blob(first)  # the round before


@pytest.mark.parametrize("after", [1, 7])
def test_a_round_that_a_silo_does_not_hold_has_a_code_of_its_own(hub, after):
    order, _, asked = begin(hub)
    assert hub.ask("train.second", order._replace(after=after), asked).code == "pass_missing"
    memory.path(hub.home(), 1).unlink()
    assert hub.ask("train.second", order, asked).code == "pass_missing"


def test_a_strategy_of_one_pass_has_no_second(tmp_path):
    hub = Hub(tmp_path)
    hub.ask("train", hub.order())
    assert hub.ask("train.second", hub.order(sketch=SIZE), {}).code == "pass_missing"


WRONG = {
    "nothing": lambda asked: {},
    "a layer less": lambda asked: dict(list(asked.items())[1:]),
    "one more": lambda asked: asked | {"x.lora_B.weight": np.zeros((2, 5), np.float32)},
    "more columns": lambda asked: {n: np.pad(x, ((0, 0), (0, 1))) for n, x in asked.items()},
    "another type": lambda asked: {n: x.astype(np.float64) for n, x in asked.items()},
    "no numbers": lambda asked: {n: x * np.float32("nan") for n, x in asked.items()},
}


def test_a_silo_answers_only_what_has_the_shape_that_the_round_has(hub):
    order, _, asked = begin(hub)
    for wrong in WRONG.values():
        assert hub.ask("train.second", order, wrong(asked)).code == "malformed"
    for size in (0, SIZE + 1):
        assert hub.ask("train.second", order._replace(sketch=size), asked).code == "malformed"


def test_a_sketch_without_columns_is_not_made(hub):
    assert hub.ask("train", hub.order()).code == "malformed"


def test_training_that_diverges_sends_no_sketch(tmp_path):
    hub = Hub(tmp_path, train__lr=1e30, train__steps=4, **SENT)
    assert hub.ask("train", hub.order(sketch=SIZE)).code == "not_finite"
    assert memory.rounds(hub.home()) == []


def test_both_passes_belong_to_the_round_that_is_trained():
    content = messages.order(messages.Order(after=3))
    assert {messages.round_of(content, kind) for kind in ("train", "train.second")} == {4}
    assert messages.round_of(content, "evaluate") == 3
