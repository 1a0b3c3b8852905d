"""Products of factors without the product: every number against the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.product import (
    Factors,
    align,
    canonical,
    change,
    inner,
    norm,
    pairs,
    stack,
    tensors,
    truncate,
)

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
SEEDS, SIZES, RANKS = st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 5)


def factors(seed, m=9, n=7, rank=3):
    draw = np.random.default_rng(seed)
    return Factors(draw.normal(size=(m, rank)), draw.normal(size=(rank, n)))


def dense(pair):
    return pair.b @ pair.a


def regauged(pair, seed):
    """Return the same product through another invertible matrix, turned and scaled by up to 10, in between."""
    draw = np.random.default_rng(seed)
    left, right = (np.linalg.qr(draw.normal(size=(pair.b.shape[1],) * 2))[0] for _ in range(2))
    g = left * 10 ** draw.uniform(-1, 1, len(left)) @ right
    return Factors(pair.b @ g, np.linalg.solve(g, pair.a))


@quick
@given(st.lists(st.tuples(st.floats(-3, 3), RANKS, SEEDS), min_size=1, max_size=5), SIZES, SIZES)
def test_a_stack_is_the_weighted_sum_of_products_of_any_ranks(terms, m, n):
    given_ = [(weight, factors(seed, m, n, rank)) for weight, rank, seed in terms]
    stacked = stack(given_)
    assert stacked.a.shape == (sum(rank for _, rank, _ in terms), n)
    slow = sum(weight * dense(pair) for weight, pair in given_)
    np.testing.assert_allclose(dense(stacked), slow, atol=1e-12)


@quick
@given(SEEDS, SIZES, SIZES, RANKS, RANKS)
def test_inner_products_and_norms_are_those_of_the_dense_matrices(seed, m, n, one, two):
    left, right = factors(seed, m, n, one), factors(seed + 1, m, n, two)
    assert inner(left, right) == pytest.approx(np.sum(dense(left) * dense(right)), abs=1e-11)
    assert norm(left) == pytest.approx(np.linalg.norm(dense(left)), rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e-6, 1e-12])
def test_a_change_is_exact_however_small_beside_the_product_it_changes(size):
    start = factors(1)
    db, da = size * factors(2).b, size * factors(2).a
    slow = db @ start.a + start.b @ da + db @ da
    made = change(start, Factors(start.b + db, start.a + da))
    # what the sum start + step rounds away is the only error
    np.testing.assert_allclose(dense(made), slow, rtol=1e-9, atol=1e-14)


@quick
@given(SEEDS, SIZES, SIZES, RANKS, st.integers(1, 6))
def test_a_truncation_is_the_best_of_its_rank(seed, m, n, rank, kept):
    whole = stack([(1.0, factors(seed, m, n, rank)), (0.5, factors(seed + 1, m, n, rank))])
    u, sizes, vt = np.linalg.svd(dense(whole), full_matrices=False)
    small = truncate(whole, kept)
    assert (small.b.shape, small.a.shape) == ((m, kept), (kept, n))
    lost = np.linalg.norm(dense(whole) - dense(small))
    assert lost == pytest.approx(np.linalg.norm(sizes[kept:]), abs=1e-12 * max(1, sizes[0]))


@quick
@given(SEEDS, RANKS)
def test_a_receiver_of_a_lower_rank_needs_the_first_columns_of_the_higher(seed, kept):
    high, low = truncate(factors(seed, rank=6), 6), truncate(factors(seed, rank=6), kept)
    np.testing.assert_array_equal(low.b, high.b[:, :kept])
    np.testing.assert_array_equal(low.a, high.a[:kept])


@quick
@given(SEEDS)
def test_a_canonical_pair_is_balanced_and_the_largest_entry_of_each_column_is_positive(seed):
    pair = canonical(factors(seed))
    gram = pair.b.T @ pair.b
    np.testing.assert_allclose(gram, pair.a @ pair.a.T, atol=1e-11)
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-11)
    assert np.all(np.diff(np.diag(gram)) <= 0)
    assert np.all(pair.b[np.argmax(np.abs(pair.b), axis=0), range(3)] > 0)


@quick
@given(SEEDS)
def test_a_canonical_pair_is_the_same_to_1e_10_whatever_the_gauge_was(seed):
    pair, other = canonical(factors(seed)), canonical(regauged(factors(seed), seed + 1))
    np.testing.assert_allclose(other.b, pair.b, atol=1e-10)
    np.testing.assert_allclose(other.a, pair.a, atol=1e-10)


@pytest.mark.parametrize("c", [1.0, 10.0, 100.0, 1e-4])
def test_a_canonical_pair_is_the_same_for_a_scaled_pair(c):
    pair = factors(3)
    scaled = canonical(Factors(c * pair.b, pair.a / c))
    for left, right in zip(scaled, canonical(pair), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-10)


def test_a_product_of_nothing_is_truncated_to_zeros():
    empty = truncate(Factors(np.zeros((5, 2)), factors(1, 5, 4, 2).a), 3)
    assert not empty.b.any() and not empty.a.any()


def test_a_product_of_a_lower_rank_than_its_factors_has_zeros_and_no_noise_beyond():
    thin = factors(1, rank=1)
    pair = canonical(Factors(np.hstack([thin.b, thin.b]), np.vstack([thin.a, thin.a])))
    assert not pair.b[:, 1].any() and not pair.a[1].any()
    np.testing.assert_allclose(dense(pair), 2 * dense(thin), atol=1e-12)


def test_a_rank_below_one_is_refused():
    with pytest.raises(ValueError, match="rank=0"):
        truncate(factors(1), 0)


def misfit(pair, reference):
    return sum(np.sum((x - y) ** 2) for x, y in zip(pair, reference, strict=True))


@quick
@given(SEEDS)
def test_an_aligned_pair_has_the_same_product_and_no_rotation_comes_nearer(seed):
    pair, reference = canonical(factors(seed)), canonical(factors(seed + 1))
    turned = align(pair, reference)
    np.testing.assert_allclose(dense(turned), dense(pair), atol=1e-11)
    np.testing.assert_allclose(turned.b.T @ turned.b, turned.a @ turned.a.T, atol=1e-11)
    best = misfit(turned, reference)
    for other in range(20):
        q, _ = np.linalg.qr(np.random.default_rng(other).normal(size=(3, 3)))
        assert best <= misfit(Factors(pair.b @ q, q.T @ pair.a), reference) + 1e-9


def test_a_pair_that_was_only_turned_is_turned_back():
    pair = canonical(factors(1))
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    back = align(Factors(pair.b @ q, q.T @ pair.a), pair)
    np.testing.assert_allclose(back.b, pair.b, atol=1e-12)
    np.testing.assert_allclose(back.a, pair.a, atol=1e-12)


def test_pairs_of_two_ranks_cannot_be_aligned():
    with pytest.raises(ValueError, match="rank 3 .* rank 2"):
        align(factors(1), factors(2, rank=2))


def test_the_pairs_of_an_adapter_are_found_by_name_and_written_back():
    names = ["m.q.lora_A.weight", "m.q.lora_B.weight", "m.k.lora_A.weight"]
    names += ["m.q.lora_A.private", "m.q.lora_B.private", "e.trainable_tokens_delta"]
    adapter = {n: np.full((2, 2), i, np.float32) for i, n in enumerate(names)}
    found = pairs(adapter)
    assert list(found) == ["m.q"]
    assert found["m.q"].a[0, 0] == 0 and found["m.q"].b[0, 0] == 1
    assert found["m.q"].b.dtype == np.float64
    back = tensors(found)
    assert sorted(back) == sorted(names[:2])
    assert all(back[n].tobytes() == adapter[n].tobytes() for n in back)
