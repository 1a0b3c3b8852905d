"""Merge and reset: its basis, and that the mean of the products is the product of the mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import accumulate
from strategies.adapter import layout
from strategies.merge_reset import basis, merge_reset

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "x.lora_A.weight", "x.lora_B.weight"
A_MERGED, B_MERGED = "x.lora_A.merged", "x.lora_B.merged"
GOLDEN = [-1, 0, -1, -1, 0, 1, 0, 0, 0, 1, 0, 0, -1, 0, 1, -1]


@quick
@given(st.integers(1, 12), st.integers(1, 60), st.text(max_size=5))
def test_the_rows_of_the_basis_are_orthonormal(rank, columns, key):
    a = basis(A, (rank, columns), key)
    assert a.shape == (rank, columns) and a.dtype == np.float32
    size = np.diag((np.arange(rank) < columns).astype(np.float64))
    np.testing.assert_allclose(a.astype(np.float64) @ a.T, size, atol=1e-6)
    filled = np.sum(a != 0, axis=1)
    assert filled.max() - filled.min() <= 1 and np.all(np.sum(a != 0, axis=0) == 1)


def test_the_basis_is_known_to_the_bit_on_every_machine():
    a = basis(A, (2, 8), "7:1")
    assert np.array_equal(np.abs(a), np.float32(0.5) * (a != 0))
    assert [int(np.sign(x)) for x in a.ravel()] == GOLDEN


def test_directions_of_many_rounds_cover_all_columns_alike():
    mean = sum(b.T @ b for b in (basis(A, (4, 16), f"7:{k}").astype(float) for k in range(2000)))
    np.testing.assert_allclose(mean / 2000, np.eye(16) * 4 / 16, atol=0.03)


@quick
@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_mean_of_the_products_is_merged_exactly(seed, weights):
    made, memory, slow = merge_reset(), {}, np.zeros((9, 14))
    share = np.array(weights) / sum(weights)
    empty = {A: np.zeros((2, 14), np.float32), B: np.zeros((9, 2), np.float32)}
    for number in (1, 2, 3):
        start = made.renewed(empty, 7, number)
        running = accumulate.empty(layout({B: start[B]}))
        for k, (weight, part) in enumerate(zip(weights, share, strict=True)):
            draw = np.random.default_rng([seed, number, k])
            own = {B: draw.normal(size=(9, 2)).astype(np.float32)}
            running = accumulate.add(running, own, weight)
            slow += part * own[B].astype(np.float64) @ start[A]
        step, memory = made.aggregate(accumulate.mean(running), {B: start[B]}, memory)
        memory = made.merge(start | step, memory)
        np.testing.assert_allclose(memory[B_MERGED] @ memory[A_MERGED], slow, atol=1e-5)
        assert len(memory[A_MERGED]) == min(9, 2 * number)


@pytest.mark.parametrize("number", [1, 2, 9])
def test_only_b_is_trained_and_sent_and_neither_factor_travels_down(number):
    made = merge_reset()
    assert not made.sent(A, number) and made.sent(B, number)
    assert not made.changed(A, number + 1) and not made.changed(B, number + 1)
    assert made.changed(B_MERGED, number + 1)
