"""A clock that is off is told in words, and only then."""

from __future__ import annotations

import pytest

from fl_client import clock
from fl_client.checks import hub

DAY = 86400.0


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [
        (DAY, "24 h ahead of"),
        (-DAY, "24 h behind"),
        (31, "31 s ahead of"),
        (-4000 * DAY, "4000 days"),
    ],
)
def test_a_clock_that_is_off_is_told_by_how_much_which_way_and_what_to_do(ahead_s, words):
    said = clock.warning(ahead_s)
    assert f"this machine's clock is {words}" in said
    assert clock.REMEDY in said
    assert "takes part all the same" in said
    assert hub.clock(ahead_s) == ("clock", False, clock.apart(ahead_s), clock.REMEDY)


@pytest.mark.parametrize("ahead_s", [0.0, 29.0, -30.0])
def test_clocks_that_nearly_agree_are_not_mentioned(ahead_s):
    assert clock.warning(ahead_s) == ""
    assert hub.clock(ahead_s).ok
