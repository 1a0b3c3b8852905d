"""Profiles of lines and machines, and who has which: read, refused in plain words, dealt, and played in time."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.config import ConfigError
from fl_server.simulation import profiles, seats
from fl_server.simulation.profiles import Place, checked

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
START = datetime(2026, 11, 30, 8)  # a Monday
HOUR = 3600.0
LINE = {"uplink_bytes_s": 1000, "downlink_bytes_s": 4000}


def place(**more):
    return Place(checked("own", LINE | more), "7:clinic", START)


def test_four_profiles_are_bundled_and_the_clinics_line_is_256_kbit():
    found = profiles.bundled()
    assert list(found) == ["campus-fibre", "district-4g", "clinic-dsl", "satellite"]
    assert found["clinic-dsl"].uplink_bytes_s == 256_000 / 8
    assert found["clinic-dsl"].power_cuts.daily
    up = [found[name].uplink_bytes_s for name in ("campus-fibre", "district-4g", "clinic-dsl")]
    assert up == sorted(up, reverse=True)


WRONG = {
    "uplink_bytes_s": ({"uplink_bytes_s": 0}, "uplink_bytes_s=0 is not allowed"),
    "nothing said": ({"uplink_bytes_s": None}, "uplink_bytes_s=None is not allowed"),
    "a typo": ({"uplink_bytes": 9}, "unknown key 'uplink_bytes'; did you mean 'uplink_bytes_s'"),
    "no hours": ({"hours": "8-18"}, "'8-18' are no hours; write them as 08:00-18:30"),
    "empty hours": ({"hours": "08:00-08:00"}, "not all of a day"),
    "no days": ({"days": "mon-fry"}, "'mon-fry' are no days"),
    "no cuts": ({"line_cuts": {"daily": ["noon"]}}, "line_cuts.daily: 'noon' are no hours"),
    "no update hours": ({"update_hours": "at night"}, "'at night' are no hours"),
    "a budget below 0": ({"round_megabytes": -1}, "round_megabytes=-1 is not allowed"),
    "endless": ({"latency_s": float("inf")}, "latency_s=inf is not allowed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_profile_that_cannot_be_is_refused_in_one_sentence(wrong):
    values, said = WRONG[wrong]
    with pytest.raises(ConfigError) as caught:
        checked("hill", LINE | values)
    assert str(caught.value).startswith("profile hill: ") and said in str(caught.value)


def test_days_may_run_over_the_end_of_the_week():
    assert profiles.weekdays("mon-fri") == {0, 1, 2, 3, 4}
    assert profiles.weekdays("sat-mon, wed") == {5, 6, 0, 2}


@quick
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**5).map(float))
def test_a_transfer_is_never_faster_than_its_line_and_longer_the_more_there_is(few, more, at):
    own = place(line_cuts={"every_h": 1, "minutes": 20}, power_cuts={"daily": ["14:00-16:00"]})
    sooner, later = own.sent(at, few), own.sent(at, few + more)
    assert at + few / 1000 <= sooner <= later


def test_a_cut_line_holds_a_transfer_up_and_nothing_is_sent_twice():
    own = place(line_cuts={"daily": ["09:00-09:30"]})
    assert own.sent(0.0, 3_600_000) == HOUR
    assert own.sent(0.0, 3_601_000) == 1.5 * HOUR + 1
    assert place(power_cuts={"daily": ["09:00-09:30"]}).sent(0.0, 7_200_000) == 2.5 * HOUR


def test_work_waits_for_working_hours_and_the_line_does_not():
    own = place(hours="08:00-12:00", days="mon-fri")
    assert own.worked(0.0, 5 * HOUR) == 25 * HOUR
    assert own.worked(4 * 24 * HOUR, 5 * HOUR) == (7 * 24 + 1) * HOUR  # from Friday to Monday
    assert own.sent(0.0, 18_000_000) == 5 * HOUR


def test_an_update_waits_for_its_hours_and_what_comes_down_or_is_empty_does_not():
    own = place(update_hours="22:00-06:00", line_cuts={"daily": ["23:00-23:30"]})
    assert own.sent(0.0, 3_600_000) == 15 * HOUR
    # 7.5 hours of the first night, as the line is cut in it, and the rest in the second
    assert own.sent(0.0, 8 * 3_600_000) == 38.5 * HOUR
    assert own.received(0.0, 4 * 3_600_000) == HOUR
    assert own.sent(0.0, 0) == 0.0


def test_a_power_cut_costs_work_since_the_last_checkpoint_and_a_cut_line_none():
    cuts = {"daily": ["09:00-09:30"]}
    assert place(power_cuts=cuts, checkpoint_s=1000).worked(0.0, 2 * HOUR) == 2.5 * HOUR + 600
    assert place(line_cuts=cuts, checkpoint_s=1000).worked(0.0, 2 * HOUR) == 2 * HOUR


FILE = """
[silos]
campus-fibre = ["college"]
clinic-dsl = 2
hill = ["hill"]
[profiles.hill]
like = "clinic-dsl"
uplink_bytes_s = 8000
"""


def test_a_profiles_file_says_how_many_silos_have_each_profile_or_names_them(tmp_path):
    (tmp_path / "p.toml").write_text(FILE)
    found = seats.read(str(tmp_path / "p.toml"))
    assert [seat.silo for seat in found] == ["college", "clinic-dsl-1", "clinic-dsl-2", "hill"]
    known = profiles.bundled()
    assert [seat.profile for seat in found[:3]] == [
        known["campus-fibre"], known["clinic-dsl"], known["clinic-dsl"]
    ]  # fmt: skip
    assert found[3].profile == known["clinic-dsl"].model_copy(update={"uplink_bytes_s": 8000.0})


def test_so_many_silos_as_asked_for_are_dealt_the_profiles_in_turn():
    names = [seat.silo for seat in seats.read("campus-fibre, satellite", 5)]
    assert names == ["campus-fibre-1", "satellite-1", "campus-fibre-2", "satellite-2", "campus-fibre-3"]  # fmt: skip
    assert [seat.kind for seat in seats.read("satellite")] == ["satellite"]


REFUSED = {
    "[silos]\nmoon = 2": "there is no profile 'moon'; known: campus-fibre, district-4g",
    "[silos]\nsatellite = 0": "satellite = 0 should be how many silos, or a list of their names",
    "[silos]\nsatellite = true": "satellite = True should be how many silos",
    "[silos]\nsatellite = ['../x']": "should be how many silos, or a list of their names",
    "[silos]\nsatellite = ['a', 'a']": "two silos are named a",
    "[profiles.own]\nlike = 'satellite'": "should have a table [silos]",
    "silos = 3": "should have a table [silos]",
    "[silos]\nown = 1\n[profiles]\nown = 1": "profiles.own should be a table",
    "[silos]\nown = 1\n[profiles.own]\ngpus = 1": "profile own: 'uplink_bytes_s' is missing",
    "[silo]\nsatellite = 1": "nothing else",
    "[silos": "is no profiles file",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_profiles_file_that_cannot_be_used_is_refused_with_its_name(text, tmp_path):
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        seats.read(str(file))
    assert str(caught.value).startswith(str(file)) and REFUSED[text] in str(caught.value)


def test_what_is_no_file_and_no_profile_is_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="there is no profiles file lines.toml; .*clinic-dsl"):
        seats.read("lines.toml")
    with pytest.raises(ConfigError, match="there is no profile 'dsl'; known: campus-fibre"):
        seats.read("dsl")
    with pytest.raises(ConfigError, match="--silos 0 leaves nobody"):
        seats.read("satellite", 0)
