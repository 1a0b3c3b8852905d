"""What each weight that looks at losses claims, against slow and plain arithmetic (F14)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import spec
from strategies.weights.afl import afl, projected
from strategies.weights.bytes import bytes as by_bytes
from strategies.weights.loss_gap import loss_gap
from strategies.weights.qffl import qffl
from strategies.weights.weight import LEAST, Counts, Seen, weigh

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
LOSSES = st.lists(st.floats(0.1, 10), min_size=1, max_size=6)
SAME = Counts(100, 100, 100, 100)


def counted(*sizes: int) -> list[Counts]:
    return [Counts(size, size, size, size) for size in sizes]


def after(*rows: list[float]) -> Seen:
    return Seen(rows, [0.0] * len(rows[0]))


@quick
@given(st.lists(st.integers(1, 10**9), min_size=3, max_size=3), st.floats(1, 8))
def test_qffl_at_q_zero_is_the_weight_by_bytes_exactly(sizes, temperature):
    seen, counts = after([3.0, 1.0, 2.0]), counted(*sizes)
    plain = weigh(by_bytes(temperature), counts, seen)
    assert weigh(qffl(q=0.0, temperature=temperature), counts, seen) == plain


def test_qffl_at_q_zero_is_uniform_exactly_where_silos_have_the_same_text():
    assert weigh(qffl(q=0.0), [SAME] * 3, after([3.0, 0.0, 2.0])) == [1.0] * 3


@quick
@given(LOSSES, st.floats(0, 3), st.data())
def test_qffl_weighs_by_text_times_the_newest_loss_to_the_power_q(losses, q, data):
    sizes = data.draw(
        st.lists(st.integers(1, 100), min_size=len(losses), max_size=len(losses)), label="sizes"
    )
    older = [1.0] * len(losses)
    slow = np.array(sizes) * np.maximum(np.array(losses) ** q / max(losses) ** q, LEAST)
    made = weigh(qffl(q), counted(*sizes), after(older, losses))
    np.testing.assert_allclose(made, slow / slow.max(), rtol=1e-9)


def test_qffl_takes_losses_that_are_all_zero_for_no_news():
    assert weigh(qffl(2.0), [SAME] * 2, after([0.0, 0.0])) == [1.0, 1.0]


def nearest(point: np.ndarray) -> np.ndarray:
    """Return the nearest point of the simplex, the slow way: the best over all faces."""
    best, distance = np.zeros_like(point), np.inf
    for size in range(1, len(point) + 1):
        for face in itertools.combinations(range(len(point)), size):
            own = np.zeros_like(point)
            own[list(face)] = point[list(face)] - (point[list(face)].sum() - 1) / size
            if own.min() >= -1e-12 and (there := float(np.sum((own - point) ** 2))) < distance:
                best, distance = own, there
    return best


@quick
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6))
def test_the_projection_is_the_nearest_point_of_the_simplex(point):
    made = projected(point)
    assert min(made) >= 0
    assert math.fsum(made) == pytest.approx(1)
    np.testing.assert_allclose(made, nearest(np.array(point)), atol=1e-9)


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_a_point_of_the_simplex_stays_where_it_is(point):
    inside = (np.array(point) + 0.1) / np.sum(np.array(point) + 0.1)
    np.testing.assert_allclose(projected(list(inside)), inside, atol=1e-12)


@quick
@given(
    st.lists(st.lists(st.floats(0, 5), min_size=4, max_size=4), min_size=1, max_size=6),
    st.floats(0, 0.5),
)
def test_afl_replays_the_ascent_from_uniform_over_all_rounds(rows, rate):
    shares = np.full(4, 0.25)
    for row in rows:
        shares = nearest(shares + rate * np.array(row))
    np.testing.assert_allclose(afl(rate).tilt(after(*rows)), shares, atol=1e-9)


def test_afl_ends_on_the_silo_that_is_always_worst_when_training_changes_nothing():
    stuck = after(*[[1.0, 1.4, 1.2]] * 60)
    assert afl(0.1).tilt(stuck) == pytest.approx([0.0, 1.0, 0.0], abs=1e-12)
    assert weigh(afl(0.1), [SAME] * 3, stuck) == [LEAST, 1.0, LEAST]


def test_afl_comes_back_once_another_silo_is_worse():
    turned = [[1.0, 1.4]] * 40 + [[1.4, 1.0]] * 80
    assert afl(0.1).tilt(after(*turned)) == pytest.approx([1.0, 0.0], abs=1e-12)


@quick
@given(LOSSES, st.floats(0, 5), st.floats(-3, 3))
def test_loss_gap_does_not_change_when_all_gaps_grow_by_the_same(gaps, rate, more):
    counts = [SAME] * len(gaps)
    moved = Seen([], [gap + more for gap in gaps])
    made = weigh(loss_gap(rate), counts, Seen([], gaps))
    np.testing.assert_allclose(weigh(loss_gap(rate), counts, moved), made, rtol=1e-9)


@quick
@given(LOSSES, st.floats(0, 0.5))
def test_loss_gap_is_the_exponential_of_the_gaps(gaps, rate):
    slow = np.exp(rate * np.array(gaps))
    made = weigh(loss_gap(rate), [SAME] * len(gaps), Seen([], gaps))
    np.testing.assert_allclose(made, slow / slow.max(), rtol=1e-9)


@pytest.mark.parametrize("text", ["qffl(q=-1)", "afl(rate=-0.1)", "loss_gap(rate=1e999)"])
def test_a_strength_below_zero_or_without_end_is_refused_with_what_is_allowed(text):
    with pytest.raises(spec.SpecError, match="must be 0 or more"):
        spec.build(text, "weights")
