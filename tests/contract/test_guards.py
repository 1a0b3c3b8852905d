"""What holds for every guard: the honest are merged, no gauge hides, no order matters, nobody is judged unheard."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from safetensors.numpy import load, save

from strategies.adapter import add, layout, pick
from strategies.gauge import settle
from strategies.guards.guard import judged, remembered
from strategies.product import pairs
from strategies.strategy import Weighted

A, B, LONE = "q.lora_A.weight", "q.lora_B.weight", "k.lora_A.weight"
ROWS = "e.trainable_tokens_delta"
SHAPES = {A: (2, 6), B: (5, 2), LONE: (2, 3), ROWS: (3, 4)}
MANY = 7  # bulyan(f=1) needs 4 + 3


def tensors(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


START = tensors(0)


def honest(silo):
    """Return a change that most silos agree on, and a little that is the silo's own."""
    return add(tensors(99, 0.2), tensors(silo, 0.05))


def silos(updates, weights=None):
    weights = weights or [1.0] * len(updates)
    return [Weighted(f"s{k}", w, u) for k, (w, u) in enumerate(zip(weights, updates, strict=True))]


def merged(guard, sent, memory=None, start=START):
    """Return the plain mean of what a guard keeps, and its verdict."""
    verdict = judged(guard, sent, start, memory or {})
    weights = [one.weight for one in verdict.kept]
    names = verdict.kept[0].update
    mean = {
        n: np.average([np.float64(one.update[n]) for one in verdict.kept], axis=0, weights=weights)
        for n in names
    }
    return mean, verdict


def product(update):
    (pair,) = pairs(add(START, {n: x.astype(np.float32) for n, x in update.items()})).values()
    return pair.b @ pair.a


def test_where_all_send_the_same_that_is_merged_and_one_more_changes_nothing(guard):
    few, _ = merged(guard(), silos([honest(1)] * MANY))
    more, _ = merged(guard(), silos([honest(1)] * (MANY + 1)))
    np.testing.assert_allclose(product(few), product(honest(1)), atol=1e-5)
    for name in (LONE, ROWS):
        np.testing.assert_allclose(few[name], honest(1)[name], rtol=1e-6)
    for name in few:
        np.testing.assert_allclose(more[name], few[name], rtol=1e-5, atol=1e-7)


def test_the_order_of_silos_does_not_matter_to_the_last_bit(guard):
    sent = silos([honest(k) for k in range(1, MANY + 1)], [1.0, 0.7, 0.3, 0.003, 0.9, 0.5, 0.2])
    forth, back = (judged(guard(), s, START, {}) for s in (sent, sent[::-1]))
    assert forth.said == back.said
    for left, right in zip(sorted(forth.kept), sorted(back.kept), strict=True):
        assert (left.silo, left.weight) == (right.silo, right.weight)
        assert all(left.update[n].tobytes() == right.update[n].tobytes() for n in SHAPES)
    one, other = remembered(forth.seen), remembered(back.seen)
    assert {u: x.tobytes() for u, x in one.items()} == {u: x.tobytes() for u, x in other.items()}


@pytest.mark.parametrize("c", [-1.0, 10.0, 100.0, 0.01])
def test_a_silo_that_writes_its_product_in_another_gauge_changes_nothing(watchful, c):
    updates = [honest(k) for k in range(1, MANY + 1)]
    end = add(START, updates[2])
    other = {**end, B: np.float32(c) * end[B], A: end[A] / np.float32(c)}
    attacked = [*updates]
    attacked[2] = {n: other[n] - START[n] for n in other}
    plain, _ = merged(watchful(), silos(updates))
    gauged, _ = merged(watchful(), silos(attacked))
    for name in plain:
        np.testing.assert_allclose(gauged[name], plain[name], atol=1e-4)


@pytest.mark.parametrize("factor", [-10.0, 100.0, -1000.0])
def test_one_hostile_silo_moves_no_number_beyond_the_honest_ones(discarding, factor):
    updates = [honest(k) for k in range(1, MANY + 1)]
    attacked = [{n: np.float32(factor) * x for n, x in updates[0].items()}, *updates[1:]]
    step, _ = merged(discarding(), silos(attacked))
    told = [settle(u, START) for u in updates[1:]]
    for name, x in step.items():
        low, high = (f([u[name] for u in told], axis=0) for f in (np.min, np.max))
        assert np.all((x >= low - 1e-6) & (x <= high + 1e-6)), name


def test_silos_that_changed_nothing_are_merged_as_nothing(guard):
    still = {n: np.zeros_like(x) for n, x in START.items()}
    for start in (START, START | {B: np.zeros(SHAPES[B], np.float32)}):
        step, _ = merged(guard(), silos([still] * MANY), start=start)
        assert not any(x.any() for x in step.values())


@pytest.mark.parametrize("names", [(A,), (B, ROWS), (LONE,), (A, B), (ROWS,)])
def test_a_round_in_which_only_some_tensors_travel_is_guarded_too(guard, names):
    sent = silos([pick(honest(k), names) for k in range(1, MANY + 1)])
    step, _ = merged(guard(), sent)
    assert layout(step) == {n: SHAPES[n] for n in sorted(names)}
    assert all(np.isfinite(x).all() and x.any() for x in step.values())


def test_what_a_guard_is_given_stays_as_it_was_and_what_it_keeps_is_float32(guard):
    sent, start = silos([honest(k) for k in range(1, MANY + 1)]), tensors(0)
    verdict = judged(guard(), sent, start, {})
    assert all(start[n].tobytes() == START[n].tobytes() for n in START)
    for k, one in enumerate(sent, 1):
        assert all(x.tobytes() == honest(k)[n].tobytes() for n, x in one.update.items())
    assert {x.dtype for one in verdict.kept for x in one.update.values()} == {np.dtype(np.float32)}


def test_what_is_remembered_survives_a_checkpoint(guard):
    sent = silos([honest(k) for k in range(1, MANY + 1)])
    memory = remembered(judged(guard(), sent, START, {}).seen)
    restored = load(save(memory))
    assert {u: x.tobytes() for u, x in restored.items()} == {
        u: x.tobytes() for u, x in memory.items()
    }
    plain, again = (merged(guard(), sent, m)[0] for m in (memory, restored))
    assert all(plain[n].tobytes() == again[n].tobytes() for n in plain)


def test_too_few_to_compare_are_all_set_aside_and_told_so(discarding):
    made = discarding()
    sent = silos([honest(k) for k in range(made.least - 1)])
    verdict = judged(made, sent, START, {})
    assert verdict.kept == []
    assert set(verdict.said) == {one.silo for one in sent}
    assert all(f"needs {made.least}" in why for why in verdict.said.values())


def test_a_silo_whose_numbers_cannot_be_added_up_is_set_aside_and_named(watchful):
    sent = silos([honest(k) for k in range(MANY)] + [tensors(50, 1e12)])
    verdict = judged(watchful(), sent, START, {})
    assert f"s{MANY}" not in {one.silo for one in verdict.kept}
    assert "beyond 16384" in verdict.said[f"s{MANY}"]


def test_a_guard_that_discards_must_see_all_and_can_be_told_to_accept_that(discarding):
    assert discarding().gathers(START, START, {})
    assert not discarding().accept_exclusion
    assert "accept_exclusion" in inspect.signature(discarding).parameters
    assert discarding(accept_exclusion=True).accept_exclusion
