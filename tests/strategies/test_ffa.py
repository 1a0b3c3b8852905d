"""FFA-LoRA: A is common, frozen and never sent."""

from __future__ import annotations

import pytest

from strategies.ffa import ffa

A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize("given", [{}, {"lora": "language"}, {"lora": "silo"}, {"private": 4}])
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
