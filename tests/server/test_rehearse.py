"""A rehearsal decides as the hub would, lasts as long as lines and machines need, and advises what it has tried."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from typer.testing import CliRunner

from fl_client import messages, spec
from fl_client.checks.check import span
from fl_client.config import ConfigError, Study, from_flat
from fl_server import config, forecast, outlook
from fl_server.outlook import Known
from fl_server.simulation import advice, cli, rehearsal, seats
from fl_server.simulation.profiles import checked
from fl_server.simulation.seats import Seat

START = datetime(2026, 11, 30, 8)  # a Monday
LINE = {"uplink_bytes_s": 1e6, "downlink_bytes_s": 1e6, "tokens_s": 1000}
SGD = {"scaffold": {"train__optimizer": "sgd"}}


def made(**changes) -> Study:
    """Return a study of two rounds that trains for 96 seconds in each, nobody alone."""
    few = {"rounds": 2, "alone.enabled": False, "train.steps": 100, "train.batch_size": 10}
    own = {key.replace("__", "."): value for key, value in changes.items()}
    return from_flat(few | {"simulation.languages": "as,ne", "schedule": "sync()"} | own)


def seat(name: str, **more) -> Seat:
    return Seat(name, "own", checked("own", LINE | more))


def rehearsed(study: Study, *here: Seat) -> rehearsal.Table:
    return rehearsal.rehearse(study, list(here), START)


THREE = (seat("a"), seat("b"), seat("slow", tokens_s=100))


def test_a_silo_ten_times_slower_is_closed_without_at_the_deadline_and_named():
    found = rehearsed(made(schedule="sync(quorum=0.6, deadline_s=300)", rounds=1), *THREE)
    (row,) = found["rounds"]
    assert row["committed"] and row["asked"] == 3 and list(row["late"]) == ["slow"]
    assert 960 < row["late"]["slow"] < 1000
    # It is still training when it is asked to score: that closes at the deadline too.
    assert 600 <= row["seconds"] < 605
    assert [own["late"] for own in found["silos"].values()] == [0, 0, 1]
    assert found["stopped"] == ""


def test_below_the_quorum_a_round_is_tried_as_often_as_a_hub_does_and_the_study_stops():
    found = rehearsed(made(schedule="sync(quorum=1.0, deadline_s=300)"), *THREE)
    assert [row["committed"] for row in found["rounds"]] == [False] * 5
    assert found["stopped"] == "round 1 has 2 of 3 updates and needs 3; no answer from slow"
    assert found["seconds"] == pytest.approx(5 * 300, abs=20)


def test_a_deadline_that_all_keep_makes_a_round_as_long_as_the_slowest():
    found = rehearsed(made(schedule="sync(deadline_s=3000)"), *THREE)
    assert all(not row["late"] for row in found["rounds"])
    assert all(960 < row["seconds"] < 1200 for row in found["rounds"])


def planned(study: Study, *here: Seat) -> outlook.Outlook:
    """Return what a plan says of these silos."""
    spoken = study.simulation.languages.split(",")
    known = []
    for number, own in enumerate(here):
        lang = spoken[number % len(spoken)]
        known.append(Known(own.silo, "", (lang,), lang, None, own.profile.power))
    return outlook.outlook(study, known, 2**40)


def test_on_fibre_a_round_takes_what_the_plan_says():
    study, here = made(rounds=3, train__steps=3000), seats.read("campus-fibre", 3)
    pace = planned(study, *here).rows[0].pace
    for row in rehearsal.rehearse(study, here, START)["rounds"]:
        assert pace.round_s - pace.line_s <= row["seconds"] <= pace.round_s + 0.1


def test_bytes_are_those_that_the_plan_counts_but_a_parcel_is_fetched_once():
    study = made(rounds=3)
    found, plan = rehearsed(study, seat("a"), seat("b")), planned(study, seat("a"), seat("b"))
    parts, _ = config.build(study)
    legs = forecast.legs(study, parts.strategy, plan.tensors, 2)
    own = found["silos"]["b"]  # the other one sent the first adapter too
    assert found["silos"]["a"]["up"] - own["up"] == plan.once.up
    assert own["up"] == plan.total.up // 2
    assert own["down"] == sum(leg.score for leg in legs) < plan.total.down // 2


def test_the_end_lasts_as_long_as_what_silos_try_there():
    def ended(**changes) -> float:
        rail = {"alone__enabled": True, "alone__distil": ""} | changes
        return rehearsed(made(**rail), seat("a"))["seconds"]

    one, two, taught = ended(), ended(alone__adapt_rates="0.5,1"), ended(alone__distil="0.5")
    assert two - one > 100
    assert taught - one == pytest.approx((two - one) * 5 / 3, rel=0.01)
    assert ended(alone__adapt=False, alone__distil="0.5") < one


def test_an_adapter_that_travels_rounded_goes_down_whole_once_at_the_end():
    study = made(rounds=3, broadcast="bfloat16()")
    plan, found = planned(study, seat("a"), seat("b")), rehearsed(study, seat("a"), seat("b"))
    sent = 3 * forecast.sent_down({n: s for n, s in plan.tensors.items()}, study.broadcast)
    assert found["silos"]["b"]["down"] == sent + plan.once.down


def test_a_budget_is_kept_by_who_has_it_and_hours_hold_its_updates_up():
    study = made(codec="topk(0.5, least=0.001) | int8(least=4)", schedule="sync(deadline_s=90000)")
    found = rehearsed(
        study, seat("a"), seat("b", round_megabytes=0.02), seat("c", update_hours="22:00-06:00")
    )
    up = {name: own["up"] for name, own in found["silos"].items()}
    assert up["b"] <= 2 * 20_000 < up["c"] < up["a"]  # a sent the first adapter too
    # c waits from eight in the morning to ten at night, and then its rounds go on through the night
    assert found["rounds"][0]["seconds"] == pytest.approx(14 * 3600, abs=60)
    assert found["rounds"][1]["seconds"] < 600


def test_a_budget_below_the_least_update_is_refused_and_what_to_do_is_said():
    with pytest.raises(ConfigError, match="^b: its line may carry 1.0 kB a round") as caught:
        rehearsed(made(codec="topk(0.5)"), seat("a"), seat("b", round_megabytes=0.001))
    assert "let silos send less, as codec = " in str(caught.value)


def test_the_same_seed_gives_the_same_rehearsal_and_another_one_other_cuts():
    cuts = {"line_cuts": {"every_h": 0.02, "minutes": 1}}
    first, again, other = (
        rehearsed(made(seed=seed), seat("a", **cuts), seat("b", **cuts)) for seed in (7, 7, 8)
    )
    assert first == again
    assert first["seconds"] != other["seconds"]


def test_a_round_that_begins_before_closing_time_goes_on_the_next_morning():
    here = [seat("clinic", hours="08:00-18:00"), seat("b")]
    study = made(rounds=1, schedule="sync(quorum=0.5, deadline_s=3600)")
    found = rehearsal.rehearse(study, here, datetime(2026, 11, 30, 17, 59))
    (row,) = found["rounds"]
    assert row["late"] == {"clinic": pytest.approx(14 * 3600 + 96, abs=20)}
    assert row["seconds"] == pytest.approx(7200, abs=20)  # it is asked to score while it waits
    by_day = rehearsal.rehearse(study, here, datetime(2026, 11, 30, 15))
    assert not by_day["rounds"][0]["late"]


def test_what_takes_longer_than_flower_keeps_a_message_is_never_heard():
    study = made(rounds=1, train__steps=50_000, schedule="sync(quorum=0.5, deadline_s=1e7)")
    found = rehearsed(study, seat("a", tokens_s=1e5), seat("slow", tokens_s=1000 / 60))
    assert list(found["rounds"][0]["late"]) == ["slow"]
    assert found["rounds"][0]["seconds"] < messages.TTL_S * 2 + 100


def test_silos_that_are_not_drawn_are_not_asked_and_pay_for_scoring_alone():
    study = made(rounds=4, schedule="sync(sample=1)")
    found = rehearsed(study, seat("a"), seat("b"), seat("c"))
    assert [row["asked"] for row in found["rounds"]] == [1] * 4
    assert sum(own["asked"] for own in found["silos"].values()) == 4
    assert all(own["down"] for own in found["silos"].values())


@pytest.mark.parametrize("name", spec.factories("strategy"))
def test_every_strategy_can_be_rehearsed(name):
    changes = {"strategy": f"{name}()", "rounds": 3} | SGD.get(name, {})
    found = rehearsed(made(**changes), seat("a"), seat("b"), seat("c"))
    assert found["stopped"] == "" and len(found["rounds"]) == 3
    assert all(not row["late"] for row in found["rounds"])


PARTS = [
    {"codec": "ef21() | topk(0.1) | int4()", "broadcast": "int8()"},
    {"guard": "multi_krum(f=1)", "outer": "adam()", "weights": "uniform()"},
    {"strategy": "ffa(init='gradsketch')", "weights": "qffl()", "rounds": 4, "evaluate__every": 2},
    {"weights": "loss_gap()", "alone__enabled": True},
]


@pytest.mark.parametrize("parts", PARTS, ids=lambda parts: next(iter(parts.values())))
def test_codecs_guards_and_weights_take_part_as_at_a_hub(parts):
    here = [seat(name) for name in "abcde"]
    found = rehearsed(made(**parts, simulation__languages="as"), *here)
    assert found["stopped"] == "" and not any(row["late"] for row in found["rounds"])


def test_a_week_of_rounds_over_slow_lines_has_its_calendar_in_it():
    here = seats.read("clinic-dsl,satellite", 4)
    study = made(rounds=20, train__steps=100_000, schedule="sync(quorum=0.5, deadline_s=40000)")
    found = rehearsal.rehearse(study, here, START)
    assert found["seconds"] > 5 * 86400 and not found["stopped"]
    assert found["silos"]["clinic-dsl-1"]["waits_s"] > 3600


def test_a_study_in_which_nobody_waits_is_rehearsed_by_commits():
    study = made(schedule="buffered(size=2, max_staleness=3)", rounds=12)
    found = rehearsed(study, *THREE)
    rows = found["rounds"]
    assert [row["round"] for row in rows] == list(range(1, 13)) and found["stopped"] == ""
    assert all(row["seconds"] < 110 for row in rows[:9])  # while slow trains for 960
    late = [row["late"] for row in rows if row["late"]]
    assert [list(names) for names in late] == [["slow"]] and 960 < late[0]["slow"] < 1000
    assert found["silos"]["slow"]["late"] == 1 and found["silos"]["a"]["asked"] > 9
    scaled = 'schedule = "buffered(size=2, max_staleness=3, scale_steps=True)"'
    assert scaled in [said for said, _ in advice.alternatives(study, list(THREE), START)]


def test_advice_is_what_a_rehearsal_of_it_bears_out():
    study = made(schedule="sync(quorum=0.6, deadline_s=300)")
    found = rehearsed(study, *THREE)
    (said,) = advice.advice(study, list(THREE), START, found)
    assert said.startswith("slow is late in 2 of 2 rounds: its line takes ")
    assert 'schedule = "sync(quorum=0.6, deadline_s=1200)"' in said
    assert "topk" not in said  # its line is not what holds it up
    better = study.model_copy(update={"schedule": "sync(quorum=0.6, deadline_s=1200)"})
    assert not any(row["late"] for row in rehearsed(better, *THREE)["rounds"])
    assert advice.advice(better, list(THREE), START, rehearsed(better, *THREE)) == []


def test_a_slow_line_is_advised_a_codec_that_sends_less():
    study = made(schedule="sync(quorum=0.5, deadline_s=400)")
    here = [seat("a"), seat("hill", uplink_bytes_s=2000)]
    (said,) = advice.advice(study, here, START, rehearsed(study, *here))
    assert 'codec = "topk(0.05) | int8()"' in said and "would do" in said


def test_where_nothing_tried_helps_that_is_said():
    study = made(schedule="sync(quorum=0.5, deadline_s=60)", rounds=1)
    here = [seat("a", tokens_s=1e5), seat("night", tokens_s=1 / 60)]
    (said,) = advice.advice(study, here, START, rehearsed(study, *here))
    assert said.endswith(
        'neither a longer deadline nor codec = "topk(0.05) | int8()" nor train.steps = 50 would do'
    )


def test_who_trains_alone_for_longer_than_all_rounds_may_take_is_pointed_out():
    study = made(alone__enabled=True, schedule="sync(quorum=0.5)", train__steps=1000)
    here = [seat("a", tokens_s=1e6), seat("slow", tokens_s=200 / 60)]
    found = rehearsed(study, *here)
    most = 2 * len(study.alone.lrs()) * 3600
    assert most < found["before_s"] < 1.1 * most
    said = advice.advice(study, here, START, found)
    told = "slow trained alone for longer than all rounds may take; after "
    assert said[0].startswith(f"{told}{span(found['before_s'])} they begin without: ")


def typed(tmp_path, *options, text="[study]\nrounds = 2\n[alone]\nenabled = false\n"):
    (tmp_path / "study.toml").write_text(text)
    command = ["rehearse", str(tmp_path / "study.toml"), *options]
    return CliRunner().invoke(cli.app, command)


def test_the_command_prints_rounds_silos_and_when_it_is_done(tmp_path):
    ran = typed(tmp_path, "--profiles", "campus-fibre,clinic-dsl", "--start", "2026-11-30T08:00")
    assert ran.exit_code == 0, ran.output
    assert "2 rounds from Mon 30 Nov 08:00 are done at Mon 30 Nov 08:0" in ran.output
    assert "campus-fibre-1" in ran.output and "clinic-dsl-1" in ran.output


def test_the_command_prints_json_and_ends_with_1_where_the_study_would_stop(tmp_path):
    options = ("--profiles", "campus-fibre,clinic-dsl", "--json", "--silos", "3", "--set")
    ran = typed(tmp_path, *options, "schedule=sync(deadline_s=5)")
    said = json.loads(ran.stdout)
    assert ran.exit_code == 1 and "no answer from clinic-dsl-1" in said["stopped"]
    assert said["schema"] == 1 and len(said["silos"]) == 3 and said["advice"]
    assert json.loads(typed(tmp_path, *options, "rounds=1").stdout)["stopped"] == ""


SKY = ["--profiles", "satellite"]
BAD = {
    "there is no profile 'moon'": ["--profiles", "moon"],
    "--start 'soon' is no time": [*SKY, "--start", "soon"],
    "08:00+05:30' names a time zone": [*SKY, "--start", "2026-11-30T08:00+05:30"],
    "unknown schedule 'later'": [*SKY, "--set", "schedule=later()"],
    "the guard needs 3 silos in each group": [*SKY, "--set", "guard=median()"],
    "simulation.languages names no language": [*SKY, "--set", "simulation.languages=''"],
    "model.base='moon' has no config.json": [*SKY, "--set", "model.base=moon"],
}


@pytest.mark.parametrize("said", BAD)
def test_what_cannot_be_rehearsed_is_said_in_one_sentence(said, tmp_path):
    ran = typed(tmp_path, *BAD[said])
    assert ran.exit_code == 2 and ran.stderr.startswith("error: ")
    assert said in ran.stderr
