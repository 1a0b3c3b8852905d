"""HetLoRA against the mean written out: padded factors, weighed by the norms of dense products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import accumulate, widths
from strategies.hetlora import hetlora
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "q.lora_A.weight", "q.lora_B.weight"
A2, B2 = "v.lora_A.weight", "v.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (3, 9), B: (8, 3), A2: (3, 4), B2: (5, 3), ROWS: (2, 4)}


def adapter(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def aggregate(updates, weights, start):
    sent = [Weighted(f"s{k}", w, u) for k, (w, u) in enumerate(zip(weights, updates, strict=True))]
    return hetlora().aggregate(sent, start, {})[0]


def sent(start, ends):
    return [{n: end[n] - widths.cut(start, widths.rank(end))[n] for n in end} for end in ends]


@quick
@given(
    st.integers(0, 10**6),
    st.lists(st.tuples(st.integers(1, 3), st.floats(0.01, 1)), min_size=1, max_size=5),
)
def test_padded_factors_are_weighed_by_the_norm_of_their_products(seed, silos):
    start = adapter(seed)
    ends = [widths.cut(adapter(seed + k, 0.1 * k), rank) for k, (rank, _) in enumerate(silos, 1)]
    weights = [weight for _, weight in silos]
    step = aggregate(sent(start, ends), weights, start)
    sizes = [
        np.sqrt(np.linalg.norm(e[B] @ e[A]) ** 2 + np.linalg.norm(e[B2] @ e[A2]) ** 2) for e in ends
    ]
    share = np.multiply(weights, sizes) / np.dot(weights, sizes)
    for name in (A, B, A2, B2):
        slow = np.zeros(SHAPES[name])
        for one, end in zip(share, ends, strict=True):
            rows, columns = end[name].shape
            slow[:rows, :columns] += one * end[name]
        np.testing.assert_allclose(start[name] + step[name], slow, atol=1e-5)
    rows = np.average([e[ROWS] for e in ends], axis=0, weights=weights)
    np.testing.assert_allclose(start[ROWS] + step[ROWS], rows, atol=1e-5)


def test_one_silo_of_the_studys_rank_gets_back_what_it_sent():
    start, end = adapter(0), adapter(1)
    step = aggregate(sent(start, [end]), [0.3], start)
    for name in SHAPES:
        np.testing.assert_allclose(start[name] + step[name], end[name], atol=1e-6)


def test_a_silo_whose_products_are_zero_does_not_count_in_the_pairs():
    start, end = adapter(0), adapter(1)
    idle = adapter(2) | {B: np.zeros(SHAPES[B]), B2: np.zeros(SHAPES[B2])}
    both, one = (aggregate(sent(start, e), [1.0] * len(e), start) for e in ([end, idle], [end]))
    assert all(both[n].tobytes() == one[n].tobytes() for n in (A, B, A2, B2))
    assert np.any(both[ROWS] != one[ROWS])


def test_where_no_silo_has_a_product_the_seeded_pairs_stay():
    zero = {B: np.zeros(SHAPES[B], np.float32), B2: np.zeros(SHAPES[B2], np.float32)}
    start, ends = adapter(0) | zero, [adapter(1) | zero, widths.cut(adapter(2) | zero, 1)]
    step = aggregate(sent(start, ends), [1.0, 1.0], start)
    assert not any(step[n].any() for n in (A, B, A2, B2)) and step[ROWS].any()


def test_a_group_of_token_rows_alone_is_averaged():
    start = {ROWS: adapter(0)[ROWS]}
    step = aggregate([{ROWS: adapter(k)[ROWS]} for k in (1, 2)], [1.0, 1.0], start)
    np.testing.assert_allclose(step[ROWS], (adapter(1)[ROWS] + adapter(2)[ROWS]) / 2, rtol=1e-6)


def test_a_pair_that_grew_past_what_the_accumulator_takes_is_still_averaged():
    start = adapter(0) | {A: np.full(SHAPES[A], 16000, np.float32)}
    updates = [{n: np.full_like(x, 1000) for n, x in start.items()}, widths.cut(adapter(1), 2)]
    assert all(accumulate.within(x) for one in [*updates, start] for x in one.values())
    ends = [widths.cut(start, widths.rank(u))[A].astype(float) + u[A] for u in updates]
    with pytest.raises(ValueError, match="beyond 16384"):  # as sums of ends would
        accumulate.mean_of([(1.0, {A: ends[0]})], {A: SHAPES[A]})
    step = aggregate(updates, [1.0, 1.0], start)
    sizes = [
        np.linalg.norm([np.linalg.norm(end[b] @ end[a]) for a, b in ((A, B), (A2, B2))])
        for end in (
            {n: np.float64(x) + u[n] for n, x in widths.cut(start, widths.rank(u)).items()}
            for u in updates
        )
    ]
    slow = np.average([ends[0], np.pad(ends[1], [(0, 1), (0, 0)])], axis=0, weights=sizes)
    np.testing.assert_allclose(start[A] + step[A], slow, rtol=1e-6)
    assert step[A].dtype == np.float32


def test_it_mixes_ranks_and_must_see_each_silo():
    made = hetlora()
    assert made.mixed_ranks and made.reduction == "gather"
    assert made.cut(adapter(0), 2)[A] == pytest.approx(adapter(0)[A][:2])
