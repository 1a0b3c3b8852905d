"""FedEx-LoRA against dense products (F3, F4), and its guard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.fedavg import fedavg
from strategies.fedex import fedex
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "x.lora_A.weight", "x.lora_B.weight"
A_MERGED, B_MERGED = "x.lora_A.merged", "x.lora_B.merged"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (3, 20), B: (18, 3), ROWS: (2, 4)}


def adapter(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def product(held):
    return held[B].astype(np.float64) @ held[A]


def moved(start, update):
    return {n: x + update[n] for n, x in start.items()}


def sent(updates, weights):
    return [Weighted(f"s{k}", w, u) for k, (w, u) in enumerate(zip(weights, updates, strict=True))]


def merged(memory):
    if not memory:
        return np.zeros((18, 20))
    return memory[B_MERGED].astype(np.float64) @ memory[A_MERGED]


@quick
@given(st.integers(0, 10**6), st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_unguarded_base_and_factors_together_are_the_mean_of_the_products(seed, weights):
    made, start, memory = fedex(kappa=float("inf")), adapter(seed), {}
    share = np.array(weights) / sum(weights)
    for number in (1, 2):
        updates = [adapter(seed + 10 * number + k, 0.5) for k in range(len(weights))]
        want = merged(memory) + sum(
            w * product(moved(start, u)) for w, u in zip(share, updates, strict=True)
        )
        step, memory = made.aggregate(sent(updates, weights), start, memory)
        start = moved(start, step)
        np.testing.assert_allclose(merged(memory) + product(start), want, atol=1e-5)
        ranks = min(18, 3 * (len(weights) - 1) * number)
        assert len(memory[A_MERGED]) == ranks if ranks else not memory


@quick
@given(st.integers(0, 10**6), st.floats(0, 2), st.integers(2, 5))
def test_the_rest_is_merged_where_it_is_no_larger_than_its_share_of_the_step(seed, kappa, silos):
    start, updates = adapter(seed), [adapter(seed + 1 + k, 0.5) for k in range(silos)]
    whole = [product(moved(start, u)) for u in updates]
    mean = {n: start[n] + np.mean([u[n] for u in updates], axis=0) for n in start}
    rest, step = np.mean(whole, axis=0) - product(mean), np.mean(whole, axis=0) - product(start)
    ratio = np.linalg.norm(rest) / np.linalg.norm(step)
    _, memory = fedex(kappa).aggregate(sent(updates, [1.0] * silos), start, {})
    if abs(ratio - kappa) > 1e-5:
        assert bool(memory) == (ratio < kappa)


def test_the_factors_are_those_of_plain_averaging_whatever_is_merged():
    updates, weights = [adapter(k) for k in range(3)], [1.0, 0.5, 0.1]
    for kappa in (0.0, float("inf")):
        step, _ = fedex(kappa).aggregate(sent(updates, weights), adapter(9), {})
        for name, x in step.items():
            slow = np.average([u[name] for u in updates], axis=0, weights=weights)
            np.testing.assert_allclose(x, slow, rtol=1e-5, atol=1e-6)


def test_silos_that_share_a_leave_no_rest():
    start = adapter(0)
    updates = [adapter(k) | {A: np.zeros((3, 20), np.float32)} for k in (1, 2)]
    assert fedex().aggregate(sent(updates, [1.0, 1.0]), start, {})[1] == {}


def test_both_factors_travel_down_beside_what_is_merged():
    made = fedex()
    assert all(made.changed(n, 2) for n in (A, B, ROWS, A_MERGED))
    assert made.scopes == fedavg().scopes and made.growth(4, 3) == 8


@pytest.mark.parametrize("kappa", [-0.1, float("nan")])
def test_a_share_below_zero_is_refused(kappa):
    with pytest.raises(ValueError, match="is no share of a step"):
        fedex(kappa)
