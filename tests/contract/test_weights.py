"""What holds for every weight."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.weights.weight import Counts

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
COUNTS = st.builds(Counts, *[st.integers(0, 10**12)] * 4)
SOME = st.builds(Counts, *[st.integers(1, 10**6)] * 4)


@quick
@given(COUNTS)
def test_a_weight_is_positive_and_finite_even_for_an_empty_silo(weight, counts):
    assert 0 < weight().of(counts) < math.inf


@quick
@given(COUNTS, st.sampled_from(Counts._fields), st.integers(1, 10**6))
def test_more_text_never_weighs_less(weight, counts, field, more):
    grown = counts._replace(**{field: getattr(counts, field) + more})
    assert weight().of(grown) >= weight().of(counts)


@quick
@given(SOME, st.integers(2, 50))
def test_at_temperature_one_a_weight_is_proportional(tempered, counts, times):
    grown = Counts(*(times * n for n in counts))
    assert tempered(1.0).of(grown) == pytest.approx(times * tempered(1.0).of(counts))


@quick
@given(SOME, SOME)
def test_at_a_high_temperature_all_weigh_nearly_the_same(tempered, left, right):
    hot = tempered(1e6)
    assert hot.of(left) == pytest.approx(hot.of(right), rel=1e-4)
    assert tempered(math.inf).of(left) == tempered(math.inf).of(right)


@quick
@given(st.floats(1, 20), st.floats(1.01, 10))
def test_a_higher_temperature_is_more_even(tempered, low, factor):
    small, large = Counts(10, 10, 10, 10), Counts(10**5, 10**5, 10**5, 10**5)
    ratios = [tempered(t).of(large) / tempered(t).of(small) for t in (low, low * factor)]
    assert ratios[1] < ratios[0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(tempered, temperature):
    with pytest.raises(ValueError, match="temperature"):
        tempered(temperature)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01, 1e-9])
def test_a_low_temperature_is_refused_when_given_or_works_for_every_count(tempered, temperature):
    try:
        made = tempered(temperature)
    except ValueError as refusal:
        assert "temperature" in str(refusal)  # either is fine, a crash later is not
    else:
        assert 0 < made.of(Counts(*[10**9] * 4)) < math.inf
