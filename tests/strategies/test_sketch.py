"""The two-sum sketch against the dense mean of products, Eckart and Young, and flexlora (F7)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import accumulate, widths
from strategies.adapter import add, layout, pick
from strategies.flexlora import flexlora
from strategies.product import Factors
from strategies.sketch import SPARE, answered, basis, omega, sketch, sketched
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (3, 17), B: (14, 3), ROWS: (2, 4)}
TWO = sketch().passes
RANKS = st.lists(st.integers(1, 3), min_size=1, max_size=5)


def adapter(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def products(seed, ranks, m=14, n=17):
    """Return weights that add up to 1, and a product of each rank, in float64."""
    draw = np.random.default_rng(seed)
    weights = draw.uniform(0.1, 1, len(ranks))
    pairs = [Factors(draw.normal(size=(m, r)), draw.normal(size=(r, n))) for r in ranks]
    return weights / weights.sum(), pairs


def rebuilt(weights, pairs, columns, key="k"):
    """Return the mean of products as two sums give it."""
    drawn = omega(key, pairs[0].a.shape[1], columns)
    q = basis(sum(w * sketched(f, drawn) for w, f in zip(weights, pairs, strict=True)))
    return q @ sum(w * answered(f, q) for w, f in zip(weights, pairs, strict=True))


def dense(weights, pairs):
    return sum(w * (f.b @ f.a) for w, f in zip(weights, pairs, strict=True))


def product(*adapters):
    """Return the dense product of the pair of a sum of adapters."""
    b, a = (sum(x[n].astype(np.float64) for x in adapters) for n in (B, A))
    return b @ a


def trained(seed, start, ranks):
    """Return what each silo of a rank was sent, and what its training changed."""
    starts = [flexlora().cut(start, rank) for rank in ranks]
    ends = [widths.cut(adapter(seed + 1 + k), rank) for k, rank in enumerate(ranks)]
    return starts, [
        {n: end[n] - old[n] for n in old} for end, old in zip(ends, starts, strict=True)
    ]


def merged(start, starts, changes, weights, size):
    """Return the mean that a hub comes to, B the basis and A in it, and the step that follows."""
    held = [TWO.held(old, change) for old, change in zip(starts, changes, strict=True)]
    ends = [
        add(TWO.first(old, size, "7:1"), TWO.first(own, size, "7:1"))
        for old, own in zip(starts, held, strict=True)
    ]
    mean = accumulate.mean_of(zip(weights, ends, strict=True), layout(ends[0]))
    asked = TWO.ask(mean)
    whole = [
        pick(change, [ROWS]) | asked | add(TWO.second(old, asked), TWO.second(own, asked))
        for old, own, change in zip(starts, held, changes, strict=True)
    ]
    mean = accumulate.mean_of(zip(weights, whole, strict=True), layout(whole[0]))
    return mean, sketch().aggregate(mean, start, {})[0]


@quick
@given(st.integers(0, 10**6), RANKS, st.integers(0, 4))
def test_with_as_many_columns_as_ranks_the_mean_is_exact(seed, ranks, spare):
    weights, pairs = products(seed, ranks)
    mean = dense(weights, pairs)
    lost = np.linalg.norm(mean - rebuilt(weights, pairs, min(14, sum(ranks) + spare)))
    assert lost < 1e-12 * np.linalg.norm(mean)


@quick
@given(st.integers(0, 10**6), RANKS)
def test_in_float32_the_mean_of_several_ranks_is_exact_to_rounding(seed, ranks):
    start = adapter(seed)
    starts, changes = trained(seed, start, ranks)
    weights = list(np.linspace(1, 0.2, len(ranks)))
    mean, _ = merged(start, starts, changes, weights, TWO.size(ranks))
    share = np.array(weights) / sum(weights)
    ends = (product(old, change) for old, change in zip(starts, changes, strict=True))
    slow = sum(w * end for w, end in zip(share, ends, strict=True))
    assert np.linalg.norm(product(mean) - slow) < 1e-5 * np.linalg.norm(slow)


@quick
@given(st.integers(0, 10**6), st.integers(1, 7))
def test_with_fewer_columns_it_is_never_better_than_the_best_of_its_rank(seed, columns):
    weights, pairs = products(seed, [3, 3, 3])
    mean = dense(weights, pairs)
    sizes = np.linalg.svd(mean, compute_uv=False)
    lost = np.linalg.norm(mean - rebuilt(weights, pairs, columns))
    assert lost >= np.linalg.norm(sizes[columns:]) * (1 - 1e-12)


@pytest.mark.parametrize(("kept", "columns"), [(2, 5), (4, 8), (6, 8)])
def test_with_fewer_columns_it_loses_on_average_no_more_than_a_randomised_svd(kept, columns):
    weights, pairs = products(5, [4, 4, 4], 40, 50)
    mean = dense(weights, pairs)
    sizes = np.linalg.svd(mean, compute_uv=False)
    lost = [
        np.linalg.norm(mean - rebuilt(weights, pairs, columns, f"key {k}")) ** 2 for k in range(40)
    ]
    # Halko et al. 2011, theorem 10.5: the mean squared loss for a Gaussian matrix.
    bound = (1 + kept / (columns - kept - 1)) * np.sum(sizes[kept:] ** 2)
    assert np.sum(sizes[columns:] ** 2) <= np.mean(lost) <= bound


@quick
@given(st.integers(0, 10**6), RANKS)
def test_the_step_is_that_of_flexlora_which_sees_each_silo(seed, ranks):
    start, weights = adapter(seed), [1.0, 0.7, 0.31, 0.4, 0.9][: len(ranks)]
    starts, changes = trained(seed, start, ranks)
    _, step = merged(start, starts, changes, weights, TWO.size(ranks))
    sent = [Weighted(f"s{k}", w, x) for k, (w, x) in enumerate(zip(weights, changes, strict=True))]
    slow, _ = flexlora().aggregate(sent, start, {})
    np.testing.assert_allclose(product(start, step), product(start, slow), atol=2e-4)
    np.testing.assert_array_equal(step[ROWS], slow[ROWS])


def test_what_was_not_trained_is_sent_as_zeros_so_that_codecs_round_the_change_alone():
    start = adapter(0)
    nothing = {n: np.zeros_like(x) for n, x in start.items()}
    assert not TWO.first(TWO.held(start, nothing), 5, "k")[B].any()
    little = TWO.first(TWO.held(start, {n: 1e-4 * x for n, x in adapter(1).items()}), 5, "k")[B]
    assert 0 < np.abs(little).max() < 1e-3 * np.abs(TWO.first(start, 5, "k")[B]).max()


def test_a_product_of_zero_stays_at_the_seeded_start_and_can_still_learn():
    start = adapter(0) | {B: np.zeros(SHAPES[B], np.float32)}
    nothing = {n: np.zeros_like(x) for n, x in start.items()}
    _, step = merged(start, [start] * 2, [nothing] * 2, [1.0, 1.0], 6)
    assert not any(x.any() for x in step.values())


def test_a_sketch_has_no_more_columns_than_the_narrower_side_of_its_layer():
    assert TWO.layouts(SHAPES, 5) == ({B: (14, 5), ROWS: (2, 4)}, {A: (5, 17)})
    assert TWO.layouts(SHAPES, 99) == ({B: (14, 14), ROWS: (2, 4)}, {A: (14, 17)})
    assert TWO.first(adapter(0), 99, "k")[B].shape == (14, 14)


def test_what_is_drawn_depends_on_round_and_layer():
    one, same, other = (omega(key, 3, 4) for key in ("7:1:x", "7:1:x", "7:2:x"))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    whole = omega("7:1:x", 300, 40)
    assert np.array_equal(whole.ravel()[:12], one.ravel())
    assert abs(whole.mean()) < 0.03 and whole.var() == pytest.approx(1, abs=0.03)
    pinned = [-1.5452330928, 1.1688437300, 1.6377646041, -0.7664022287]
    np.testing.assert_allclose(one[0], pinned, atol=1e-9)


def test_the_size_is_exact_by_default_and_may_be_given():
    assert TWO.size([2, 4, 4]) == 10 + SPARE
    assert sketch(size=6).passes.size([2, 4, 4]) == 6
    with pytest.raises(ValueError, match="size=-1 is no number of columns"):
        sketch(size=-1)


def test_the_hub_sees_sums_alone():
    assert (sketch().reduction, sketch().domain, sketch().mixed_ranks) == ("sum", "sketch", True)
