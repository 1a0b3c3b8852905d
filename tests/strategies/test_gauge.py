"""Updates in one gauge, and their distances, against dense products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import gauge
from strategies.adapter import add, sha256
from strategies.gauge import distances, moves, settle, units
from strategies.guards.guard import in_gauge
from strategies.strategy import Weighted

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B, LONE = "q.lora_A.weight", "q.lora_B.weight", "k.lora_B.weight"
ROWS = "e.trainable_tokens_delta"
SHAPES = {A: (2, 6), B: (5, 2), LONE: (4, 2), ROWS: (3, 4)}
SEEDS = st.integers(0, 10**6)


def tensors(seed, scale=1.0):
    draw = np.random.default_rng(seed)
    return {n: (scale * draw.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


def product(adapter):
    return adapter[B].astype(np.float64) @ adapter[A].astype(np.float64)


def dense(update, start):
    """Return the change of each unit as a dense matrix."""
    after = {n: x.astype(np.float64) + update.get(n, 0) for n, x in start.items()}
    found = {n: update[n].astype(np.float64) for n in (LONE, ROWS) if n in update}
    return found | {"q": after[B] @ after[A] - product(start)}


def test_a_pair_is_one_unit_and_every_other_tensor_by_itself():
    assert units(SHAPES, SHAPES) == {"q": [A, B], LONE: [LONE], ROWS: [ROWS]}
    assert units(SHAPES, [B]) == {"q": [B]}
    assert units({LONE: 0}, [LONE]) == {LONE: [LONE]}


@quick
@given(SEEDS, st.sampled_from([(A, B), (A,), (B,), (A, B, LONE, ROWS)]))
def test_moves_are_the_changes_of_dense_products(seed, names):
    start, update = tensors(seed), {n: x for n, x in tensors(seed + 1).items() if n in names}
    slow = dense(update, start)
    for unit, found in moves(update, start).items():
        np.testing.assert_allclose((found.b @ found.a).ravel(), slow[unit].ravel(), atol=1e-6)


@quick
@given(SEEDS, st.sampled_from([1.0, 10.0, 100.0, -3.0]))
def test_a_settled_update_has_the_same_product_and_is_the_same_in_any_gauge(seed, c):
    start, update = tensors(seed), tensors(seed + 1)
    made = settle(update, start)
    np.testing.assert_allclose(product(add(start, made)), product(add(start, update)), atol=1e-5)
    end = add(start, update)
    end |= {B: end[B] * np.float32(c), A: end[A] / np.float32(c)}
    other = settle({n: end[n] - start[n] for n in end}, start)
    for name in (A, B):
        np.testing.assert_allclose(other[name], made[name], atol=1e-4)
    assert all(made[n].tobytes() == update[n].tobytes() for n in (LONE, ROWS))


def test_a_settled_update_of_a_settled_start_is_nearly_the_update_itself():
    start = tensors(0)
    start = add(start, settle(tensors(1), start))
    small = tensors(2, 1e-3)
    made = settle(small, start)
    for name in (A, B):
        assert np.linalg.norm(made[name]) < 2 * np.linalg.norm(small[name])


@pytest.mark.parametrize("name", [A, B])
def test_one_factor_by_itself_has_no_gauge_and_stays_as_it_is(name):
    update = {name: tensors(1)[name]}
    assert settle(update, tensors(0))[name].tobytes() == update[name].tobytes()


def slow_distances(updates, start):
    """Return the squared distances by the definition: dense matrices, each unit over its lower quartile."""
    moved = [dense(u, start) for u in updates]
    total = np.zeros((len(moved), len(moved)))
    for unit in moved[0]:
        squares = np.array([[np.sum((x[unit] - y[unit]) ** 2) for y in moved] for x in moved])
        each = sorted(squares[i, j] for j in range(len(moved)) for i in range(j))
        total += squares / each[(len(each) - 1) // 4]
    return total


@quick
@given(SEEDS, st.integers(2, 7))
def test_distances_are_those_of_dense_products_each_unit_in_its_own_measure(seed, silos):
    start, updates = tensors(seed), [tensors(seed + 1 + k) for k in range(silos)]
    found = distances([Weighted(f"s{k}", 1.0, u) for k, u in enumerate(updates)], start)
    np.testing.assert_allclose(found, slow_distances(updates, start), rtol=1e-8)


def test_equal_updates_are_at_no_distance_and_a_unit_that_nobody_moved_counts_nothing():
    same = [Weighted(f"s{k}", 1.0, tensors(1)) for k in range(3)]
    assert not distances(same, tensors(0)).any()
    rows = {n: np.zeros_like(x) for n, x in tensors(1).items()} | {ROWS: tensors(1)[ROWS]}
    still = {n: np.zeros_like(x) for n, x in rows.items()}
    apart = distances([Weighted("s0", 1.0, rows), Weighted("s1", 1.0, still)], tensors(0))
    assert apart[0, 1] == pytest.approx(1.0)


def test_two_hostile_of_seven_cannot_stretch_the_measure_of_a_unit():
    updates = [tensors(k, 0.1) for k in range(7)]
    for k in (5, 6):
        updates[k] = {**updates[k], ROWS: 1000 * updates[k][ROWS]}
    found = distances([Weighted(f"s{k}", 1.0, u) for k, u in enumerate(updates)], tensors(9))
    assert found[:5, :5].max() < 1e-3 * found[5:, :5].min()


def test_an_update_that_cannot_be_added_up_in_the_gauge_of_the_round_is_told_so_in_words():
    found = in_gauge(Weighted("b", 0.5, tensors(1)), tensors(0))
    assert (found.silo, found.weight) == ("b", 0.5)
    assert sha256(found.update) == sha256(settle(tensors(1), tensors(0)))
    assert "beyond 16384" in in_gauge(Weighted("c", 1.0, tensors(2, 1e12)), tensors(0))


@pytest.mark.parametrize("numbers", [1, 100, 200])
def test_distances_are_the_same_to_the_bit_however_many_silos_are_compared_at_a_time(
    numbers, monkeypatch
):
    updates = [Weighted(f"s{k}", 1.0, tensors(1 + k)) for k in range(7)]
    whole = distances(updates, tensors(0))
    monkeypatch.setattr(gauge, "AT_ONCE", numbers)
    assert distances(updates, tensors(0)).tobytes() == whole.tobytes()
