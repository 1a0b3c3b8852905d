"""FFA-LoRA: A is common, frozen and never sent."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.ffa import ffa

A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize(
    "given", [{}, {"lora": "language"}, {"lora": "silo"}, {"private": 4}, {"init": "orthonormal"}]
)
def test_a_is_never_trained_never_sent_and_never_changed(given):
    made = ffa(**given)
    for round_number in range(1, 10):
        assert not made.local.trainable(A, round_number)
        assert not made.sent(A, round_number)
        assert not made.changed(A, round_number)


@pytest.mark.parametrize("name", [B, ROWS])
def test_b_and_rows_are_trained_and_sent_from_the_first_round(name):
    made = ffa()
    assert all(made.local.trainable(name, r) and made.sent(name, r) for r in range(1, 10))
    assert made.changed(name, 2)


@pytest.mark.parametrize("name", ["x.lora_A.private", "x.lora_B.private"])
def test_both_private_factors_are_trained_and_stay(name):
    made = ffa(private=4)
    assert made.private_rank == 4
    assert made.local.trainable(name, 1)
    assert not made.sent(name, 1)


@pytest.mark.parametrize("lora", ["everyone", "family", "language", "silo"])
def test_a_is_common_to_everyone_however_narrow_b_is(lora):
    made = ffa(lora=lora, rows="script")
    assert made.scope(A) == "everyone"
    assert (made.scope(B), made.scope(ROWS)) == (lora, "script")


def test_orthonormal_rows_are_those_of_the_seed_and_the_same_in_every_round():
    made, empty = ffa(init="orthonormal"), {A: np.ones((3, 17), np.float32), B: np.ones((5, 3))}
    first, later, other = (made.renewed(empty, s, r) for s, r in ((7, 1), (7, 9), (8, 1)))
    np.testing.assert_allclose(first[A].astype(float) @ first[A].T, np.eye(3) / 3, atol=1e-6)
    assert first[A].tobytes() == later[A].tobytes() != other[A].tobytes()
    assert first[B] is empty[B]


def test_a_chosen_from_gradients_goes_down_from_the_first_round_on_and_never_up():
    made = ffa(init="gradsketch")
    assert all(made.changed(A, r) and not made.sent(A, r) for r in range(1, 10))
    assert [ffa(lora=s, init="gradsketch").scope(A) for s in ("family", "as+bn")] == [
        "family",
        "as+bn",
    ]


@pytest.mark.parametrize("init", ["seed", "orthonormal", "gradsketch"])
def test_every_start_of_a_has_the_norm_of_the_plain_one(init):
    made, shape = ffa(init=init), (8, 400)
    start = {A: made.begin(A, shape, "7")}
    if made.survey:
        start = made.survey.found({A: np.random.default_rng(0).normal(size=(16, 400))}, start, "7")
    assert np.linalg.norm(start[A]) == pytest.approx(np.sqrt(8 / 3), rel=0.03)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"init": "pissa"}, "choose one of seed, orthonormal, gradsketch"),
        ({"init": "gradsketch", "lora": "silo"}, "choose a wider scope or 'orthonormal'"),
    ],
)
def test_a_start_that_cannot_be_is_refused_with_what_can(given, said):
    with pytest.raises(ValueError, match=said):
        ffa(**given)
