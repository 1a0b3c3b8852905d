"""F1: the weighted sum is the same to the last bit, whatever the order, and near the exact mean."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies import accumulate
from strategies.adapter import layout, unflatten

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
SIZE = 6
NUMBERS = st.floats(-16383, 16383, width=32)
VECTORS = hnp.arrays(np.float32, SIZE, elements=NUMBERS)
WEIGHTS = st.floats(2**-20, 1)
SENT = st.lists(st.tuples(VECTORS, WEIGHTS), min_size=1, max_size=7)


def total(sent):
    """Return the sum of (adapter, weight) pairs in this order."""
    running = accumulate.empty(layout(sent[0][0]))
    for update, weight in sent:
        running = accumulate.add(running, update, weight)
    return running


def joined(running):
    means = accumulate.mean(running)
    return np.concatenate([means[name].ravel() for name in sorted(means)]).tobytes()


@quick
@given(SENT, st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_bytes(sent, random):
    sent = [({"x": x}, w) for x, w in sent]
    before = joined(total(sent))
    random.shuffle(sent)
    assert joined(total(sent)) == before


@quick
@given(SENT)
def test_the_mean_of_updates_that_are_all_there_is_the_mean_of_the_running_sum(sent):
    shapes = {"x": (SIZE,)}
    mean = accumulate.mean_of([(w, {"x": x}) for x, w in sent], shapes)["x"]
    assert mean.tobytes() == joined(total([({"x": x}, w) for x, w in sent]))
    with pytest.raises(ValueError, match="no update"):
        accumulate.mean_of([], shapes)


@quick
@given(SENT, st.sets(st.integers(1, SIZE - 1)))
def test_any_chunking_gives_the_same_bytes(sent, cuts):
    whole = joined(total([({"x": x}, w) for x, w in sent]))
    pieces = [dict(enumerate_names(np.split(x, sorted(cuts)))) for x, _ in sent]
    assert joined(total(list(zip(pieces, [w for _, w in sent], strict=True)))) == whole


@quick
@given(SENT, st.data())
def test_updates_folded_in_together_give_the_bytes_of_one_after_another(sent, data):
    shapes = {"a": (2,), "b": (SIZE - 2,)}
    sent = [(w, unflatten(x, shapes)) for x, w in sent]
    running, at = accumulate.empty(shapes), 0
    while at < len(sent):
        together = sent[at : at + data.draw(st.integers(1, 4))]
        if data.draw(st.booleans()):  # tensors that lie apart
            together = [(w, {n: x.copy() for n, x in held.items()}) for w, held in together]
        running, at = accumulate.fold(running, together), at + len(together)
    slow = total([(held, w) for w, held in sent])
    assert joined(running) == joined(slow)
    assert (running.weight, running.added) == (slow.weight, slow.added)
    for n in shapes:  # the integers of the definition
        exact = sum(np.rint(np.float64(h[n]) * (w * 2.0**32)).astype(np.int64) for w, h in sent)
        assert running.totals[n].tolist() == exact.tolist()


@pytest.mark.parametrize("block", [1, 3, 5, 1 << 16])
def test_a_sum_is_the_same_in_blocks_of_any_size(block, monkeypatch):
    monkeypatch.setattr(accumulate, "BLOCK", block)
    updates = [np.random.default_rng(k).normal(size=13).astype(np.float32) for k in range(3)]
    running = accumulate.fold(accumulate.empty({"x": (13,)}), [(0.3, {"x": x}) for x in updates])
    exact = sum(np.rint(np.float64(x) * (0.3 * 2.0**32)) for x in updates)
    assert running.totals["x"].tolist() == exact.tolist()
    expected = (exact / running.weight).astype(np.float32)
    assert accumulate.mean(running)["x"].tobytes() == expected.tobytes()


def test_adding_up_takes_no_memory_beyond_the_sum():
    shapes, size = {"x": (1 << 20,)}, 1 << 20
    updates = [(1.0, {"x": np.full(size, k, np.float32)}) for k in range(3)]
    running = accumulate.empty(shapes)
    tracemalloc.start()
    running = accumulate.fold(running, updates)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * accumulate.BLOCK + 20_000
    assert accumulate.mean(running)["x"][0] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int32])
@pytest.mark.parametrize("limit", [16384.0, float("inf")])
@quick
@given(st.lists(st.floats(width=16) | st.sampled_from([16383.0, 16384.0, -16384.0]), max_size=5))
def test_numbers_are_within_a_limit_if_each_is(dtype, limit, numbers):
    if dtype == np.int32:
        numbers = [int(n) for n in numbers if np.isfinite(n)]
    vector = np.array(numbers, dtype)
    assert accumulate.within(vector, limit) == all(abs(float(n)) < limit for n in vector)


def enumerate_names(pieces):
    return [(f"x{number}", piece) for number, piece in enumerate(pieces)]


def exact_mean(sent, at):
    """Return the slow, exact weighted mean of one coordinate."""
    whole = sum(Fraction(float(x[at])) * Fraction(w) for x, w in sent)
    return whole / sum(Fraction(w) for _, w in sent)


@quick
@given(SENT)
def test_the_mean_is_within_its_bound_of_the_exact_one(sent):
    sent = [*sent, (np.ones(SIZE, np.float32), 1.0)]  # the largest weight is 1, as add asks for
    mean = accumulate.mean(total([({"x": x}, w) for x, w in sent]))["x"]
    for at in range(SIZE):
        exact = exact_mean(sent, at)
        # half a unit of 2^-32 for each value and each weight, and one rounding to float32
        fixed = len(sent) * 0.51 * 2.0**-32 * (1 + abs(float(exact)))
        assert abs(Fraction(float(mean[at])) - exact) <= fixed + abs(float(exact)) * 2**-24 + 1e-45


@quick
@given(VECTORS, st.integers(1, 40))
def test_the_mean_of_equal_updates_is_one_of_them_to_the_last_bit(x, silos):
    x = np.where(np.abs(x) < 2**-8, np.float32(0), x)  # exact in 32 fractional bits
    assert joined(total([({"x": x}, 1.0)] * silos)) == (x + np.float32(0)).tobytes()


def test_a_value_is_rounded_to_the_nearest_unit_and_not_towards_one_side():
    x = np.float32([0.6, -0.6, 0.4, -0.4, 7.51, -7.51]) * np.float32(2**-32)
    assert total([({"x": x}, 1.0)]).totals["x"].tolist() == [1, -1, 0, 0, 8, -8]


def test_the_mean_is_float32_and_has_the_layout_of_the_updates():
    update = {"b": np.ones((2, 3), np.float32), "a": np.ones(4, np.float32)}
    mean = accumulate.mean(total([(update, 0.5), (update, 1.0)]))
    assert layout(mean) == layout(update)
    assert {x.dtype for x in mean.values()} == {np.dtype(np.float32)}


def test_the_largest_sum_that_is_allowed_does_not_overflow():
    most = np.nextafter(np.float32(accumulate.LIMIT), np.float32(0))
    update = {"x": np.array([most, -most])}
    once = total([(update, 1.0)])
    all_of_them = once._replace(
        totals={"x": once.totals["x"] * (accumulate.MOST - 1)},
        weight=once.weight * (accumulate.MOST - 1),
        added=accumulate.MOST - 1,
    )
    full = accumulate.add(all_of_them, update, 1.0)
    np.testing.assert_array_equal(accumulate.mean(full)["x"], update["x"])
    with pytest.raises(ValueError, match="overflow"):
        accumulate.add(full, update, 1.0)


GOOD = np.ones(3, np.float32)
REFUSED = {
    "nan": ({"x": np.float32([0, np.nan, 0])}, 1.0, "NaN"),
    "infinity": ({"x": np.float32([0, np.inf, 0])}, 1.0, "NaN"),
    "too large": ({"x": np.float32([0, 16384, 0])}, 1.0, "16384"),
    "too negative": ({"x": np.float32([0, 0, -16384])}, 1.0, "16384"),
    "weight 0": ({"x": GOOD}, 0.0, "weight"),
    "weight below 0": ({"x": GOOD}, -0.5, "weight"),
    "weight above 1": ({"x": GOOD}, 1.0000001, "weight"),
    "weight nan": ({"x": GOOD}, float("nan"), "weight"),
    "weight that rounds to 0": ({"x": GOOD}, 2.0**-34, "weight"),
    "no tensor": ({}, 1.0, "other tensors"),
    "another name": ({"y": GOOD}, 1.0, "other tensors"),
    "one tensor more": ({"x": GOOD, "y": GOOD}, 1.0, "other tensors"),
    "another shape": ({"x": np.ones((3, 1), np.float32)}, 1.0, "shape"),
    "a shape that broadcasts": ({"x": np.ones(1, np.float32)}, 1.0, "shape"),
}


@pytest.mark.parametrize(("update", "weight", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_false_update_is_refused_and_the_sum_stays_as_it_was(update, weight, why):
    running = total([({"x": GOOD}, 1.0)])
    with pytest.raises(ValueError, match=why):
        accumulate.add(running, update, weight)
    assert joined(running) == GOOD.tobytes()
    assert running.added == 1


def test_a_nan_in_the_last_tensor_is_refused_before_the_first_is_added():
    running = accumulate.empty({"a": (3,), "b": (3,)})
    with pytest.raises(ValueError, match="NaN"):
        accumulate.add(running, {"a": GOOD, "b": GOOD * np.nan}, 1.0)
    assert not running.totals["a"].any()


def test_nothing_has_no_mean():
    with pytest.raises(ValueError, match="no update"):
        accumulate.mean(accumulate.empty({"x": (3,)}))
