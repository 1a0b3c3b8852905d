"""When a synchronous round closes, and whether it counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.schedules.buffered import buffered
from strategies.schedules.sync import sync


def test_a_round_waits_for_everyone_before_the_deadline():
    closes = sync(quorum=0.5, deadline_s=10).closes
    assert not closes(4, 3, 1, 9.9)
    assert closes(4, 4, 0, 0.1)
    assert closes(4, 3, 1, 10.0)


@given(asked=st.integers(1, 1000), tenths=st.integers(1, 10))
def test_the_quorum_is_the_least_number_that_is_the_share(asked, tenths):
    schedule = sync(quorum=tenths / 10)
    needed = schedule.needed(asked)
    assert 10 * needed >= tenths * asked
    assert needed == 1 or 10 * (needed - 1) < tenths * asked
    assert schedule.enough(asked, needed)
    assert not schedule.enough(asked, needed - 1)


@pytest.mark.parametrize(
    "options",
    [
        {"quorum": 0},
        {"quorum": 1.01},
        {"quorum": float("nan")},
        {"deadline_s": 0},
        {"sample": -1},
        {"over_sample": -1, "sample": 2},
        {"over_sample": 1},
    ],
)
def test_options_out_of_range_are_refused_with_what_was_given(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        sync(**options)


def test_a_round_asks_as_many_as_it_says_drawn_by_seed_and_round():
    names = [f"s{k:03d}" for k in range(200)]
    few = sync(sample=10).asks
    drawn = [few(names, 7, number) for number in range(1, 101)]
    assert all(len(set(asked)) == 10 and asked == sorted(asked) for asked in drawn)
    assert drawn == [few(names, 7, number) for number in range(1, 101)]
    assert drawn[0] != drawn[1] and drawn[0] != few(names, 8, 1)
    counts = [sum(name in asked for asked in drawn) for name in names]
    assert max(counts) <= 16 and sum(counts) == 1000  # 5 times each, give or take 2.2


@pytest.mark.parametrize("sample", [0, 5, 6])
def test_a_round_asks_all_where_there_are_no_more_than_it_wants(sample):
    assert sync(sample=sample).asks(list("abcde"), 7, 1) == list("abcde")


@given(silos=st.integers(1, 60), sample=st.integers(1, 20), over=st.integers(1, 20))
def test_a_round_that_asks_more_than_it_waits_for_closes_with_the_sample(silos, sample, over):
    names = [f"s{k:02d}" for k in range(silos)]
    schedule = sync(sample=sample, over_sample=over)
    asked = len(schedule.asks(names, 7, 1))
    wanted = min(sample, silos)
    assert asked == min(sample + over, silos)
    assert schedule.closes(asked, wanted, asked - wanted, 0.0)
    assert not schedule.closes(asked, wanted - 1, asked - wanted + 1, 0.0)
    assert schedule.closes(asked, wanted - 1, asked - wanted + 1, 3600.0)
    assert schedule.needed(asked) == wanted and schedule.enough(asked, wanted)
    assert not schedule.scored(asked, wanted, 1, 0.0)  # scores are waited for


@given(staleness=st.integers(0, 200), most=st.integers(0, 100))
def test_an_update_counts_less_the_staler_it_is_and_not_at_all_beyond_the_most(staleness, most):
    buffer = buffered(max_staleness=most).buffer
    wanted = 1 / (1 + staleness) ** 0.5 if staleness <= most else 0
    assert buffer.discount(staleness) == pytest.approx(wanted)
    assert buffer.longest == most


def test_all_silos_train_as_many_steps_unless_they_are_scaled_by_speed():
    assert buffered().buffer.share(1.0, 10.0) == 1
    assert buffered(scale_steps=True).buffer.share(1.0, 10.0) == pytest.approx(0.1)


@pytest.mark.parametrize("options", [{"size": 0}, {"max_staleness": -1}, {"deadline_s": 0}])
def test_a_buffer_that_cannot_be_is_refused_with_what_was_given(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        buffered(**options)


def test_a_silo_finds_what_it_was_sent_as_long_as_its_update_may_count():
    assert (sync().late, buffered(max_staleness=8).late, buffered(max_staleness=0).late) == (
        1,
        8,
        1,
    )


@given(
    silos=st.integers(1, 40),
    sample=st.integers(0, 12),
    over=st.integers(0, 5),
    quorum=st.floats(0.1, 1),
)
def test_a_round_asks_and_waits_for_its_sample_and_no_more_than_there_are(
    silos, sample, over, quorum
):
    over = over if sample else 0
    schedule = sync(quorum=quorum, sample=sample, over_sample=over)
    assert schedule.asked(silos) == min(silos, sample + over or silos)
    assert schedule.waits_for(silos) == min(silos, sample or silos)


def test_without_rounds_everyone_is_asked():
    assert buffered(size=2).asked(7) == 7
