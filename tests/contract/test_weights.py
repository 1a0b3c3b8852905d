"""What holds for every weight."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import accumulate
from strategies.weights.weight import LEAST, Counts, Seen, weigh

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
COUNTS = st.builds(Counts, *[st.integers(0, 10**12)] * 4)
SOME = st.builds(Counts, *[st.integers(1, 10**6)] * 4)


@st.composite
def seen(draw, highest=50.0, silos=None):
    """Draw what a hub may have seen of some silos over some rounds."""
    width = silos or draw(st.integers(1, 6))
    row = st.lists(st.floats(0, highest), min_size=width, max_size=width)
    return Seen(draw(st.lists(row, max_size=5)), draw(row))


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
    assert tempered(temperature=1.0).of(grown) == pytest.approx(
        times * tempered(temperature=1.0).of(counts)
    )


@quick
@given(SOME, SOME)
def test_at_a_high_temperature_all_weigh_nearly_the_same(tempered, left, right):
    hot = tempered(temperature=1e6)
    assert hot.of(left) == pytest.approx(hot.of(right), rel=1e-4)
    assert tempered(temperature=math.inf).of(left) == tempered(temperature=math.inf).of(right)


@quick
@given(st.floats(1, 20), st.floats(1.01, 10))
def test_a_higher_temperature_is_more_even(tempered, low, factor):
    small, large = Counts(10, 10, 10, 10), Counts(10**5, 10**5, 10**5, 10**5)
    ratios = [
        tempered(temperature=t).of(large) / tempered(temperature=t).of(small)
        for t in (low, low * factor)
    ]
    assert ratios[1] < ratios[0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(tempered, temperature):
    with pytest.raises(ValueError, match="temperature"):
        tempered(temperature=temperature)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.01, 1e-9])
def test_a_low_temperature_is_refused_when_given_or_works_for_every_count(tempered, temperature):
    try:
        made = tempered(temperature=temperature)
    except ValueError as refusal:
        assert "temperature" in str(refusal)  # either is fine, a crash later is not
    else:
        assert 0 < made.of(Counts(*[10**9] * 4)) < math.inf


@quick
@given(seen(), st.data())
def test_every_silo_weighs_something_and_the_heaviest_weighs_one(weight, seen, data):
    counts = data.draw(st.lists(COUNTS, min_size=len(seen.gaps), max_size=len(seen.gaps)))
    weights = weigh(weight(), counts, seen)
    assert len(weights) == len(counts)
    assert max(weights) == 1
    assert all(round(w * accumulate.FRACTION) >= 1 for w in weights)


@quick
@given(seen(), SOME)
def test_losses_lift_no_silo_above_a_thousand_times_another(weight, seen, counts):
    weights = weigh(weight(), [counts] * len(seen.gaps), seen)
    assert min(weights) >= LEAST


@quick
@given(seen(1e300))
def test_absurd_losses_still_give_weights(weight, seen):
    made = weight()
    told = seen if made.needs == "loss" else seen._replace(gaps=[min(g, 1e9) for g in seen.gaps])
    weights = weigh(made, [Counts(1, 1, 1, 1)] * len(seen.gaps), told)
    assert all(0 < w <= 1 for w in weights)


@quick
@given(seen(), st.data())
def test_the_order_of_silos_does_not_matter(weight, seen, data):
    counts = data.draw(st.lists(SOME, min_size=len(seen.gaps), max_size=len(seen.gaps)))
    order = data.draw(st.permutations(range(len(counts))))
    turned = Seen([[row[k] for k in order] for row in seen.losses], [seen.gaps[k] for k in order])
    weights = weigh(weight(), counts, seen)
    assert weigh(weight(), [counts[k] for k in order], turned) == [weights[k] for k in order]


@quick
@given(seen(silos=4), seen(silos=4))
def test_a_weight_looks_at_what_it_says_it_needs_and_at_nothing_else(weight, seen, other):
    made, counts = weight(), [Counts(1, 1, 1, 1)] * 4
    kept = {"counts": other, "loss": seen._replace(gaps=other.gaps), "gap": other}[made.needs]
    kept = kept._replace(gaps=seen.gaps) if made.needs == "gap" else kept
    assert weigh(made, counts, kept) == weigh(made, counts, seen)


@quick
@given(st.floats(0.5, 4), st.floats(0.1, 2))
def test_a_weight_that_needs_losses_gives_more_to_the_silo_that_is_worse_off(weight, low, more):
    made = weight()
    far = Seen([[low, low + more]], [low, low + more])
    better, worse = weigh(made, [Counts(1, 1, 1, 1)] * 2, far)
    assert (worse > better) == (made.needs != "counts")


def test_before_any_loss_is_known_equal_silos_weigh_the_same(weight):
    assert weigh(weight(), [Counts(9, 9, 9, 9)] * 3, Seen([], [0.0] * 3)) == [1.0] * 3
