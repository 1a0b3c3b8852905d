"""FlexLoRA against the dense mean of products and its dense SVD (F6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import widths
from strategies.flexlora import flexlora
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (3, 9), B: (8, 3), ROWS: (2, 4)}


def adapter(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def product(*adapters):
    """Return the dense product of the pair of a sum of adapters."""
    b, a = (sum(x[n].astype(np.float64) for x in adapters) for n in (B, A))
    return b @ a


def merged(updates, weights, start):
    sent = [Weighted(f"s{k}", w, u) for k, (w, u) in enumerate(zip(weights, updates, strict=True))]
    return flexlora().aggregate(sent, start, {})[0]


@quick
@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_the_new_product_is_the_best_of_its_rank_to_the_mean_of_the_products(seed, weights):
    start, updates = adapter(seed), [adapter(seed + 1 + k, 0.5) for k in range(len(weights))]
    step = merged(updates, weights, start)
    share = np.array(weights) / sum(weights)
    mean = sum(w * product(start, u) for w, u in zip(share, updates, strict=True))
    sizes = np.linalg.svd(mean, compute_uv=False)
    lost = np.linalg.norm(mean - product(start, step))
    assert lost == pytest.approx(np.linalg.norm(sizes[3:]), abs=1e-5 * sizes[0])


def test_token_rows_are_averaged_as_they_are():
    updates, weights = [adapter(k) for k in range(3)], [1.0, 0.5, 0.1]
    slow = np.average([u[ROWS] for u in updates], axis=0, weights=weights)
    np.testing.assert_allclose(merged(updates, weights, adapter(9))[ROWS], slow, rtol=1e-6)


def test_silos_that_agree_up_to_the_gauge_agree():
    start, end = adapter(0), adapter(1)
    ends = [{**end, B: end[B] * np.float32(c), A: end[A] / np.float32(c)} for c in (1, 8, 0.25)]
    step = merged([{n: e[n] - start[n] for n in e} for e in ends], [1.0, 1.0, 1.0], start)
    np.testing.assert_allclose(product(start, step), product(end), atol=1e-4)


def test_the_factors_stay_near_the_start_where_the_start_was_balanced_and_the_change_is_small():
    start = adapter(0)
    start |= {n: start[n] + x for n, x in merged([adapter(1)], [1.0], start).items()}
    step = merged([adapter(2, 0.01), adapter(3, 0.01)], [1.0, 1.0], start)
    for name in (A, B):
        assert np.linalg.norm(step[name]) < 0.1 * np.linalg.norm(start[name])


def test_a_round_in_which_no_product_moved_from_zero_keeps_the_seeded_factors():
    start = adapter(0) | {B: np.zeros(SHAPES[B], np.float32)}
    still = {n: np.zeros_like(x) for n, x in start.items()}
    assert not any(x.any() for x in merged([still, still], [1.0, 0.5], start).values())


@pytest.mark.parametrize("rank", [1, 2])
def test_a_silo_of_a_lower_rank_receives_the_best_approximation_of_its_rank(rank):
    start = adapter(4)
    cut = flexlora().cut(start, rank)
    assert (cut[A].shape, cut[B].shape) == ((rank, 9), (8, rank))
    assert cut[ROWS].tobytes() == start[ROWS].tobytes()
    sizes = np.linalg.svd(product(start), compute_uv=False)
    lost = np.linalg.norm(product(start) - product(cut))
    assert lost == pytest.approx(np.linalg.norm(sizes[rank:]), rel=1e-5)


def test_the_narrower_receiver_holds_the_first_columns_of_the_wider_ones():
    one, two = (flexlora().cut(adapter(4), rank) for rank in (1, 2))
    np.testing.assert_array_equal(one[B], two[B][:, :1])
    np.testing.assert_array_equal(one[A], two[A][:1])


def test_the_seeded_start_is_cut_to_its_first_rows_since_it_has_no_product():
    start = adapter(0) | {B: np.zeros(SHAPES[B], np.float32)}
    np.testing.assert_array_equal(flexlora().cut(start, 2)[A], start[A][:2])
    assert all(np.array_equal(x, start[n]) for n, x in flexlora().cut(start, 3).items())


@quick
@given(st.integers(0, 10**6), st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_products_of_several_ranks_are_averaged_as_products(seed, ranks):
    start, made = adapter(seed), flexlora()
    ends, sent = [], []
    for k, rank in enumerate(ranks):
        received = made.cut(start, rank)
        end = widths.cut(adapter(seed + 1 + k), rank)
        sent.append({n: end[n] - received[n] for n in end})
        ends.append(product(end))
    step = merged(sent, [1.0] * len(ranks), start)
    mean = np.mean(ends, axis=0)
    sizes = np.linalg.svd(mean, compute_uv=False)
    lost = np.linalg.norm(mean - product(start, step))
    assert lost == pytest.approx(np.linalg.norm(sizes[3:]), abs=1e-5 * sizes[0])


def test_products_need_to_be_seen_one_by_one():
    assert (flexlora().reduction, flexlora().domain) == ("gather", "product")
