"""Virtual time: work takes as long as it takes, pauses add exactly their length, cuts cost at most a checkpoint."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from itertools import islice, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_server.simulation import clock
from fl_server.simulation.clock import DAY, Span

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
START = datetime(2026, 11, 30, 8)  # a Monday
times = st.integers(0, 10**5).map(float)
seconds = st.integers(0, 5 * 10**4).map(float)


@st.composite
def spans(draw):
    """Return spans in order of their beginnings that may overlap."""
    found = [Span(b, b + n) for b, n in draw(st.lists(st.tuples(times, seconds), max_size=8))]
    return sorted(found)


def covered(calendar, begin, end):
    """Return for how many seconds between two times something is closed, the slow way."""
    edges = sorted({begin, end} | {t for span in calendar for t in span if begin < t < end})
    pieces = zip(edges, edges[1:], strict=False)
    return sum(b - a for a, b in pieces if any(s.begin <= a and b <= s.end for s in calendar))


@quick
@given(times, seconds, spans())
def test_a_pause_adds_exactly_its_length_and_nothing_else_does(began, work, calendar):
    ended = clock.ends(began, work, calendar)
    assert ended == began + work + covered(calendar, began, ended)


@quick
@given(times, seconds, seconds, spans(), spans())
def test_more_work_is_never_done_sooner_and_none_faster_than_it_takes(
    began, less, more, pauses, cuts
):
    first = clock.ends(began, less, pauses, cuts, 30)
    assert began + less <= first <= clock.ends(began, less + more, pauses, cuts, 30)


@quick
@given(times, seconds, spans(), st.integers(1, 1000).map(float))
def test_a_cut_costs_its_length_and_less_than_one_checkpoint_interval(began, work, cuts, kept):
    paused, cut = clock.ends(began, work, cuts), clock.ends(began, work, [], cuts, kept)
    within = [span for span in cuts if began < span.begin < cut]
    lost = cut - began - work - covered(cuts, began, cut)
    assert paused <= cut and 0 <= lost < kept * len(within) + 1e-6
    assert lost == 0 or within


def test_what_was_done_since_the_last_checkpoint_is_done_again():
    cuts = [Span(100, 160)]
    assert clock.ends(0, 200, [], cuts, 30) == 160 + 200 - 90
    assert clock.ends(0, 200, [], cuts) == 260
    assert clock.ends(0, 100, [], cuts, 30) == 100  # it was done just before


def test_work_that_is_cut_more_often_than_it_is_kept_never_ends():
    assert clock.ends(0, 60, [], clock.drawn("storm", 1, 3600), 3600) == math.inf
    assert clock.ends(0, 10, [Span(-math.inf, math.inf)]) == math.inf


@quick
@given(st.integers(0, 23), st.integers(1, 30), times)
def test_hours_of_every_day_are_those_of_the_local_clock(hour, length, since):
    hours = [Span(hour * 3600.0, (hour + length) * 3600.0)]
    for span in islice(clock.daily(hours, START, since), 5):
        begins = START + timedelta(seconds=span.begin)
        assert (begins.hour, begins.minute) == (hour, 0)
        assert span.end - span.begin == length * 3600
    running = takewhile(lambda span: span.begin < since, clock.daily(hours, START))
    held = {span for span in running if span.end > since}
    assert held <= set(islice(clock.daily(hours, START, since), 6))


@quick
@given(
    st.sets(st.integers(0, 6), min_size=1),
    st.integers(0, 23),
    st.integers(1, 24),
    st.integers(0, 14 * 24).map(lambda hours: hours * 3600.0),
)
def test_outside_of_working_hours_it_is_closed_and_inside_open(days, opens, length, since):
    hours = Span(opens * 3600.0, (opens + length) * 3600.0)
    week = list(
        takewhile(lambda s: s.begin < since + 7 * DAY, clock.closed(hours, days, START, since))
    )
    for hour in range(7 * 24):
        at = since + hour * 3600
        begun = (
            START + timedelta(seconds=at) - timedelta(hours=opens)
        )  # as if it opened at midnight
        works = begun.weekday() in days and begun.hour < length
        shut = any(span.begin <= at < span.end for span in week)
        assert shut != works


def test_drawn_cuts_are_a_function_of_their_key_and_have_the_means_asked_for():
    one, again, other = (
        list(islice(clock.drawn(key, 1000, 10), 4000)) for key in ("7:a", "7:a", "7:b")
    )
    assert one == again != other
    assert all(a.end <= b.begin for a, b in zip(one, one[1:], strict=False))
    assert sum(span.end - span.begin for span in one) / 4000 == pytest.approx(10, rel=0.1)
    assert one[-1].end / 4000 == pytest.approx(1010, rel=0.1)
