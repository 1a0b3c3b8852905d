"""Presets of FedAvg's scopes: share-A and two adapters."""

from __future__ import annotations

import pytest

from strategies.dual import dual
from strategies.fedavg import fedavg
from strategies.share_a import share_a

A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"
PRIVATE = ("x.lora_A.private", "x.lora_B.private")


@pytest.mark.parametrize("scope", ["everyone", "family", "script", "language", "as+bn,hi+ne"])
def test_only_a_is_ever_sent_and_within_the_scope_that_was_given(scope):
    made = share_a(scope, private=2)
    sent = {n for n in (A, B, ROWS, *PRIVATE) for r in range(1, 9) if made.sent(n, r)}
    assert sent == {A}
    assert made.scope(A) == scope


def test_sharing_a_with_nobody_is_refused():
    with pytest.raises(ValueError, match="scope='silo' shares nothing"):
        share_a("silo")


def test_a_dual_adapter_shares_one_and_keeps_one_and_its_rows():
    made = dual()
    assert made.private_rank == 16
    sent = {n for n in (A, B, ROWS, *PRIVATE) for r in range(1, 9) if made.sent(n, r)}
    assert sent == {A, B}
    assert made == fedavg(rows="silo", private=16)


def test_a_dual_adapter_without_the_second_is_refused():
    with pytest.raises(ValueError, match="private=0"):
        dual(private=0)
