"""FLoRA against the dense weighted sum of products (F5)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import widths
from strategies.flora import flora
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "x.lora_A.weight", "x.lora_B.weight"
A_MERGED, B_MERGED = "x.lora_A.merged", "x.lora_B.merged"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (3, 20), B: (18, 3), ROWS: (2, 4)}


def update(seed):
    draw = np.random.default_rng(seed)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


def begun(number):
    start = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    return flora().renewed(start, 7, number)


@quick
@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_stack_is_the_weighted_sum_of_the_products(seed, weights):
    made, memory, slow = flora(), {}, np.zeros((18, 20))
    share = np.array(weights) / sum(weights)
    for number in (1, 2):
        start = begun(number)
        updates = [update(seed + 10 * number + k) for k in range(len(weights))]
        sent = [
            Weighted(f"s{k}", w, u) for k, (w, u) in enumerate(zip(weights, updates, strict=True))
        ]
        step, memory = made.aggregate(sent, start, memory)
        for w, u in zip(share, updates, strict=True):
            a = (start[A] + u[A]).astype(np.float64)
            slow += w * u[B] @ a
        np.testing.assert_allclose(memory[B_MERGED] @ memory[A_MERGED], slow, atol=2e-5)
        assert len(memory[A_MERGED]) == min(18, 3 * len(weights) * number)
        assert not step[A].any() and not step[B].any()
        rows = np.average([u[ROWS] for u in updates], axis=0, weights=weights)
        np.testing.assert_allclose(step[ROWS], rows, rtol=1e-5, atol=1e-6)


@quick
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 3)), min_size=1, max_size=5),
)
def test_the_products_of_silos_of_several_ranks_are_stacked_whole(seed, silos):
    start, share = begun(1), np.array([weight for weight, _ in silos])
    wide = [update(seed + k) for k in range(len(silos))]
    narrow = [widths.cut(u, rank) for u, (_, rank) in zip(wide, silos, strict=True)]
    slow = sum(
        w * u[B].astype(np.float64) @ (start[A][:rank].astype(np.float64) + u[A])
        for w, u, (_, rank) in zip(share / share.sum(), narrow, silos, strict=True)
    )
    sent = [Weighted(f"s{k}", w, u) for k, (w, u) in enumerate(zip(share, narrow, strict=True))]
    step, memory = flora().aggregate(sent, start, {})
    np.testing.assert_allclose(memory[B_MERGED] @ memory[A_MERGED], slow, atol=2e-5)
    assert len(memory[A_MERGED]) == min(18, sum(rank for _, rank in silos))
    assert {n: x.shape for n, x in step.items()} == SHAPES


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_narrower_silo_begins_at_the_first_rows_of_everyones_start(number):
    full = {n: np.zeros(s, np.float32) for n, s in SHAPES.items()}
    own = flora().renewed(widths.cut(full, 1), 7, number)
    assert own.keys() == full.keys() and own[A].any()
    for name, x in widths.cut(begun(number), 1).items():
        np.testing.assert_array_equal(own[name], x)


def test_a_round_restarts_at_a_product_of_zero_with_another_a():
    one, two = begun(1), begun(2)
    assert not one[B].any() and not two[B].any()
    assert not np.array_equal(one[A], two[A])
    assert np.abs(one[A]).max() <= 1 / np.sqrt(20)


def test_factors_never_travel_down_and_the_merged_part_does():
    made = flora()
    assert [made.changed(n, 5) for n in (A, B, ROWS, A_MERGED)] == [False, False, True, True]
    assert made.mutates_base and made.growth(3, 5) == 15
