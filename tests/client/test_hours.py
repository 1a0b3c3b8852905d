"""Hours of a day in which updates are sent."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import hours
from fl_client.config import ConfigError

quick = settings(deadline=None, derandomize=True, max_examples=50, database=None)
MIDNIGHT = datetime(2026, 11, 30)
minutes = st.integers(0, 1439)


@quick
@given(minutes, minutes, minutes)
def test_the_wait_ends_in_the_first_minute_that_is_within_the_hours(begin, end, minute):
    if begin == end:
        return
    text = f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}"
    within = {*range(begin, end)} if begin < end else {*range(begin, 1440), *range(end)}
    slow = next(n for n in range(1440) if (minute + n) % 1440 in within)
    found = hours.parse(text)
    assert found.wait_s(MIDNIGHT + timedelta(minutes=minute)) == 60 * slow
    assert found.open_s == 60 * len(within) and found.shut_s == 86400 - found.open_s


def test_without_hours_nothing_waits():
    assert hours.parse("").wait_s(MIDNIGHT) == hours.parse("").held_up_s(10**6) == 0


def test_what_takes_longer_than_a_night_is_held_up_for_several_days():
    night = hours.parse("22:00-06:00")
    assert [night.held_up_s(h * 3600) / 3600 for h in (0, 1, 8, 9, 17)] == [16, 16, 16, 32, 48]


@pytest.mark.parametrize("text", ["22-6", "22:00 - 06:00", "24:00-06:00", "08:00-08:00", "night"])
def test_what_is_no_hours_is_refused_in_a_sentence(text):
    with pytest.raises(ConfigError, match="are no hours; write them as 08:00-18:30"):
        hours.parse(text)
