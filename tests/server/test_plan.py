"""What a plan predicts is what then happens, and what does not fit is named before anyone spends time on it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from typer.testing import CliRunner

from fl_client import shapes, site, spec
from fl_client.config import ConfigError, Study, from_flat
from fl_client.footprint import Room
from fl_server import (
    authority,
    config,
    encoded,
    forecast,
    hub,
    outlook,
    paces,
    plan,
    queue,
    record,
    roster,
)
from fl_server.outlook import Known
from fl_server.paces import Power
from strategies import adapter as algebra

MB = 10**6
UNKNOWN = Power()


@pytest.fixture
def at(tmp_path: Path) -> Path:
    """Return the folder of a hub with three silos on its roster, of which one has said what it is."""
    folder = tmp_path / "hub"
    made = hub.new("demo", "127.0.0.1:8443")
    authority.create(folder, made)
    hub.create(folder, made)
    for name in ("clinic-as", "clinic-ne", "gone"):
        roster.invite(folder, name, (name[-2:],), 1)
    roster.eject(folder, "gone")
    greeted(folder, "clinic-as", cpus=4, memory_bytes=8000 * MB, uplink_bytes_s=1 * MB)
    return folder


def greeted(folder: Path, name: str, **said: object) -> None:
    """Let a silo have said so of itself."""
    (folder / "seen").mkdir(exist_ok=True)
    (folder / "seen" / f"{name}.json").write_text(json.dumps({"hello": said}))


def planned(folder: Path, tmp_path: Path, *options: str) -> tuple[int, dict]:
    """Return the exit code of a plan of the built-in study, and what it says."""
    (tmp_path / "study.toml").write_text('[study]\nname = "one"\n')
    command = [str(tmp_path / "study.toml"), "--hub", str(folder), "--json", *options]
    ran = CliRunner().invoke(plan.app, command)
    return ran.exit_code, json.loads(ran.stdout) if ran.stdout else {"error": ran.stderr}


def silo(name: str, lang: str, room: Room | None = None, power: Power = UNKNOWN) -> Known:
    return Known(name, "approved", (lang,), lang, room, power)


# Bytes are those that a real run reports.

FAST = [
    {"strategy": "fedavg(b='silo', private=2)", "codec": "topk(0.05) | int8()", "rounds": 3},
    {"strategy": "ffa()", "codec": "float16()"},
    {"strategy": "flora()", "codec": "int8()"},
    {"model.rows": "none", "model.targets": "q_proj,v_proj", "codec": "topk(0.1)"},
    {"codec": "topk(0.01, decay=0.9) | int4()"},
    {"evaluate.every": 2, "rounds": 3},
    {"evaluate.every": 0, "rounds": 1},
    {"schedule": "sync(sample=1)", "rounds": 3},
]
SGD = {"scaffold": {"train.optimizer": "sgd"}}
SLOW = [
    {"strategy": "ffa(lora='language', init='gradsketch')"},
    *(
        {"strategy": f"{name}()", "codec": "int8()"} | SGD.get(name, {})
        for name in spec.factories("strategy")
    ),
    *({"codec": f"{name}()"} for name in spec.factories("codec")),
]
CASES = [*FAST, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(map(str, case.values())))
def test_the_bytes_of_a_plan_are_those_that_the_run_then_reports(case, small, simulate, tmp_path):
    few = {"train__steps": 1, "simulation__silos": 2, "evaluate__characters": 100}
    keys = {key.replace(".", "__"): value for key, value in case.items()}
    study = small(tmp_path / "run", **few, **keys)
    silos = [silo(own.name, site.language(own)) for own in site.simulated(study)]
    known = (
        "fedex" not in study.strategy
    )  # its rest may be zero, or left out: the plan tells the most
    found = outlook.outlook(study, silos, 2**40).total
    reported = simulate(study)["bytes"]
    assert found.up == pytest.approx(reported["up"], rel=0.02)
    assert found.down == pytest.approx(reported["down"], rel=0.02 if known else 0.1)
    assert known or found.down > reported["down"]


def test_of_a_buffer_as_many_updates_are_counted_as_its_commits_hold(small, simulate, tmp_path):
    few = {"train__steps": 1, "simulation__silos": 2, "rounds": 4}
    study = small(tmp_path / "run", schedule="buffered(size=3)", **few)
    silos = [silo(own.name, site.language(own)) for own in site.simulated(study)]
    found, reported = outlook.outlook(study, silos, 2**40), simulate(study)["bytes"]
    assert found.total.up == pytest.approx(reported["up"], rel=0.02)
    # it hangs on who comes when what is trained on which commit
    assert abs(reported["down"] - found.total.down) < 2 * found.round.down


def layout(scripts: str = "Beng", **changes: object) -> tuple[Study, algebra.Layout]:
    made = from_flat({key.replace("__", "."): value for key, value in changes.items()})
    return made, shapes.adapter(shapes.read("builtin:tiny"), made.model, "builtin:tiny", scripts)


def test_a_blob_of_tensors_is_counted_to_the_byte():
    _, tensors = layout()
    assert forecast.blob(tensors) == len(
        save({n: np.zeros(s, np.float32) for n, s in tensors.items()})
    )


@pytest.mark.parametrize("codec", ["bfloat16()", "int8()", "topk(0.03) | int8()", "randk(0.1)"])
def test_a_large_update_is_foretold_from_smaller_ones(codec, monkeypatch):
    whole = encoded._really(300_001, codec)
    monkeypatch.setattr(encoded, "ENCODED", 1 << 16)
    assert encoded._whole.__wrapped__(300_001, codec) == pytest.approx(whole, rel=0.001)


def test_what_travels_once_is_the_first_adapter_and_the_released_one():
    study, tensors = layout(strategy="ffa()")
    parts, _ = config.build(study)
    once = forecast.once(study, parts.strategy, tensors)
    assert once.up == forecast.blob(tensors)
    assert once.down == forecast.blob({n: s for n, s in tensors.items() if algebra.part(n) != "A"})


def test_a_long_study_is_foretold_at_once():
    study, tensors = layout(rounds=3000)
    parts, _ = config.build(study)
    trips = forecast.trips(study, parts.strategy, tensors)
    assert len(trips) == 3000
    assert len(set(trips[1:])) == 1


# Time.


def test_a_round_lasts_as_long_as_arithmetic_and_line_say():
    study, _ = layout(train__steps=10, train__batch_size=4, train__length=100, alone__enabled=False)
    strategy = config.build(study)[0].strategy
    shape = shapes.read("builtin:tiny")
    power = Power(cpus=2, uplink_bytes_s=1000.0)
    found = paces.of(study, strategy, shape, power, forecast.Trip(3000, 2000), 1)
    assert found is not None
    assert found.train_s == pytest.approx(4000 * 4 * shape.worked / (2 * paces.CPU_SPEED))
    assert found.line_s == 5.0
    assert found.alone_s == found.adapt_s == 0.0
    assert found.round_s == pytest.approx(1.5 + found.train_s + found.score_s + 5)


def test_what_a_silo_measured_counts_more_than_what_it_has():
    shape = shapes.read("builtin:tiny")
    assert paces.tokens_s(shape, Power(cpus=2, tokens_s=123.0)) == 123.0
    assert paces.tokens_s(shape, Power(cpus=2, gpus=1)) > paces.tokens_s(shape, Power(cpus=64))


def test_a_silo_that_said_nothing_has_no_time():
    study, _ = layout()
    assert _paced(study, Power()) is None


def test_the_safety_rail_may_take_as_long_as_all_rounds_at_each_rate():
    study, _ = layout(alone__rates="0.1,0.2", rounds=5)
    found = _paced(study, Power(cpus=1))
    assert found is not None
    assert found.alone_s == pytest.approx(2 * 5 * (found.train_s + found.score_s))


@pytest.mark.parametrize(
    ("changed", "tries"),
    [
        ({}, 1 + 5 / 3),
        ({"alone__distil": ""}, 1),
        ({"alone__adapt_rates": "0.5,1", "alone__distil": "0.5,0.9"}, 2 + 2 * 5 / 3),
        ({"alone__adapt": False}, 0),
        ({"strategy": "flora()"}, 1),
        ({"strategy": "fedsb()"}, 0),
    ],
)
def test_adapting_at_the_end_takes_a_try_for_each_rate_and_longer_with_teachers(changed, tries):
    study, _ = layout(rounds=5, **changed)
    found = _paced(study, Power(cpus=1))
    assert found is not None
    assert found.adapt_s == pytest.approx(tries * 5 * (found.train_s + found.score_s))


def _paced(study: Study, power: Power) -> paces.Pace | None:
    strategy, shape = config.build(study)[0].strategy, shapes.read("builtin:tiny")
    return paces.of(study, strategy, shape, power, forecast.Trip(1, 1), 1)


# What is known of the silos.


def test_a_plan_is_for_all_silos_that_are_not_ejected(at, tmp_path):
    code, said = planned(at, tmp_path)
    assert code == 0
    assert [row["name"] for row in said["silos"]] == ["clinic-as", "clinic-ne"]
    assert [row["round_s"] is None for row in said["silos"]] == [False, True]
    assert said["fits"] is None, "nobody knows what clinic-ne has"
    assert planned(at, tmp_path, "--silos", "clinic-as")[1]["fits"] is True


def test_a_plan_may_be_for_some_silos(at, tmp_path):
    _, said = planned(at, tmp_path, "--silos", "clinic-ne")
    assert [row["name"] for row in said["silos"]] == ["clinic-ne"]
    assert said["round_s"] is None and said["study_s"] is None


def test_token_rows_follow_the_scripts_of_the_silos_that_take_part(at, tmp_path):
    _, both = planned(at, tmp_path)
    _, one = planned(at, tmp_path, "--silos", "clinic-as")
    assert 0 < one["adapter"]["token_rows"] < both["adapter"]["token_rows"]


def test_the_languages_that_a_silo_counted_win_over_those_of_its_kit(at, tmp_path):
    counted = {"or": {"rows": 1, "bytes": 9}, "sat": {"rows": 1, "bytes": 99}}
    greeted(at, "clinic-as", cpus=1, languages=counted)
    (found, _) = outlook.known(at, "", "builtin:tiny")
    assert found.languages == ("or", "sat")
    assert found.main == "sat"


def test_memory_is_that_of_the_smallest_gpu_or_of_the_machine(at):
    greeted(at, "clinic-as", gpus=2, gpu_memory_bytes=1000, memory_bytes=5000)
    greeted(at, "clinic-ne", cpus=2, memory_bytes=5000, processes=3)
    rooms = [found.room for found in outlook.known(at, "", "builtin:tiny")]
    assert rooms == [Room(950, 2, True), Room(5000, 3, False)]


def test_speed_is_that_of_the_last_round_on_the_same_base(at, tmp_path):
    for order, (name, base, speed) in enumerate(
        [
            ("first", "builtin:tiny", 100.0),
            ("last", "builtin:tiny", 250.0),
            ("other", "elsewhere", 9.0),
        ]
    ):
        made = from_flat({"name": name, "model.base": base})
        queue.add(at, made, ("clinic-as",))
        (at / "runs" / name).mkdir(parents=True)
        ranks = {"tokens_s": {"0": speed, "1": speed}}
        record.append(
            at / "runs" / name, {"round": order, "silos": {"clinic-as": {"ranks": ranks}}}
        )
    (found, other) = outlook.known(at, "", "builtin:tiny")
    assert found.power.tokens_s == 500.0
    assert other.power.tokens_s == 0.0
    _, said = planned(at, tmp_path)
    assert [row["measured"] for row in said["silos"]] == [True, False]


def test_a_study_that_cannot_be_read_is_left_out_of_what_is_known_of_speed(at, tmp_path):
    for name, speed in (("sound", 250.0), ("damaged", 9.0), ("torn", 8.0)):
        queue.add(at, from_flat({"name": name}), ("clinic-as",))
        (at / "runs" / name).mkdir(parents=True)
        ranks = {"tokens_s": {"0": speed}}
        record.append(at / "runs" / name, {"round": 0, "silos": {"clinic-as": {"ranks": ranks}}})
    (queue.folder(at, "damaged") / "study.toml").write_text("[alone]\nerrors = Infinity\n")
    for path in (record.FILE, record.COPY):
        lost = at / "runs" / "torn" / path
        lost.write_bytes(lost.read_bytes().replace(b"8.0", b"7.0"))
    with pytest.raises(ConfigError, match="is no study file"):
        queue.study_of(at, "damaged")
    with pytest.raises(ConfigError, match="is damaged"):
        record.lines(at / "runs" / "torn")
    code, said = planned(at, tmp_path)
    assert (code, [row["measured"] for row in said["silos"]]) == (0, [True, False])
    assert outlook.known(at, "", "builtin:tiny")[0].power.tokens_s == 250.0


@pytest.mark.parametrize("speed", [math.nan, math.inf, -5.0, 5e-324])
def test_a_speed_that_cannot_be_is_not_believed(at, tmp_path, speed):
    queue.add(at, from_flat({"name": "one"}), ("clinic-as",))
    (at / "runs" / "one").mkdir(parents=True)
    for number, each in enumerate((250.0, speed)):
        ranks = {"tokens_s": {"0": each}}
        line = {"round": number, "silos": {"clinic-as": {"ranks": ranks}}}
        record.append(at / "runs" / "one", line)
    said = record.lines(at / "runs" / "one")[-1]["silos"]["clinic-as"]["ranks"]["tokens_s"]["0"]
    assert said == speed or math.isnan(said)
    assert outlook.known(at, "", "builtin:tiny")[0].power.tokens_s == 250.0


# What does not fit.


def test_memory_that_is_too_small_is_named_with_the_setting_that_makes_it_fit(at, tmp_path):
    large = ("--set", "train.batch_size=512", "--set", "train.length=512")
    code, said = planned(at, tmp_path, *large)
    row = said["silos"][0]
    assert code == 1 and said["fits"] is False
    assert "do not fit into its memory of 8.0 GB" in row["problem"]
    assert row["remedy"].startswith("set train.micro_batch = ")
    lowered = [
        part
        for change in row["remedy"].removeprefix("set ").split(" and ")
        for part in ("--set", change)
    ]
    assert planned(at, tmp_path, *large, *lowered)[0] == 0


def test_a_gpu_that_is_too_small_is_named():
    study, _ = layout()
    tight = silo("a", "as", Room(700 * MB, 4, True))
    (row,) = outlook.outlook(study, [tight], 2**40).rows
    assert "for each of 4 processes do not fit into a GPU of its 700 MB" in row.problem


def test_a_machine_that_no_setting_helps_is_told_to_take_a_smaller_base():
    study, _ = layout()
    (row,) = outlook.outlook(study, [silo("a", "as", Room(MB, 1, False))], 2**40).rows
    assert row.remedy == "take a smaller base"


def test_a_round_that_ends_after_its_deadline_is_named():
    study, _ = layout(schedule="sync(deadline_s=60)", train__steps=500)
    slow = silo("a", "as", None, Power(cpus=1, tokens_s=10.0))
    (row,) = outlook.outlook(study, [slow], 2**40).rows
    assert "its round takes about 11 h, and the schedule closes before" in row.problem
    assert row.remedy == "lower train.steps, or raise deadline_s in schedule"


def test_an_update_that_is_larger_than_the_hub_keeps_is_named(at, tmp_path):
    settings = at / "hub.toml"
    settings.write_text(settings.read_text().replace("2147483648", "1048576"))
    code, said = planned(at, tmp_path, "--set", "codec=float32()")
    assert code == 1
    assert "is larger than spool_bytes in hub.toml, 1.0 MB" in said["silos"][1]["problem"]
    assert "send less with codec" in said["silos"][1]["remedy"]


def test_the_private_adapter_needs_memory_and_does_not_travel():
    room, many = Room(10**12, 1, False), 64
    plain, _ = layout(strategy="fedavg()")
    dual, _ = layout(strategy=f"fedavg(private={many})")
    one = outlook.outlook(plain, [silo("a", "as", room)], 2**40)
    two = outlook.outlook(dual, [silo("a", "as", room)], 2**40)
    assert one.total == two.total
    # itself, its gradient, two moments, and two teachers have it too
    more = algebra.size(layout(model__rank=many, model__rows="none")[1]) * 6 * 4
    needs = [found.rows[0].need for found in (one, two)]
    assert needs[0] is not None and needs[1] is not None
    assert needs[1].adapter - needs[0].adapter == more


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "model.base=none/such"), "give a folder that holds the base's config.json"),
        (("--silos", "gone"), "silo gone is not on the roster; on it: clinic-as, clinic-ne"),
        (("--set", "strategy=fedavg(lora='silo', rows='silo')"), "[C60]"),
        (("--set", "codec=zip()"), "unknown codec 'zip'"),
        (("--set", "train.stepz=1"), "did you mean 'train.steps'?"),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_sentence(at, tmp_path, options, said):
    code, answer = planned(at, tmp_path, *options)
    assert code == 2
    assert said in answer["error"]


def test_a_hub_without_silos_has_nothing_to_plan(tmp_path):
    folder = tmp_path / "hub"
    authority.create(folder, hub.new("demo", "127.0.0.1:8443"))
    hub.create(folder, hub.new("demo", "127.0.0.1:8443"))
    with pytest.raises(ConfigError, match="there is no silo to plan for; on it: nobody; invite"):
        outlook.read(folder, Study(), "")


def test_people_read_the_same_numbers_and_what_they_rest_on(at, tmp_path):
    (tmp_path / "study.toml").write_text('[study]\nname = "one"\n')
    command = [str(tmp_path / "study.toml"), "--hub", str(at)]
    ran = CliRunner().invoke(plan.app, command, env={"COLUMNS": "160"})
    assert ran.exit_code == 0, ran.output
    assert "one: 12 rounds, 2 silos, an adapter of" in ran.stdout
    assert "clinic-ne has not said what it has" in ran.stdout
    assert "Memory is an estimate" in ran.stdout
    assert "4 cores" in ran.stdout


FREE = "codec=topk(0.2, least=0.01) | int8(least=4)"


def test_a_budget_makes_an_update_as_small_as_the_study_allows(at, tmp_path):
    greeted(
        at, "clinic-ne", cpus=4, memory_bytes=8000 * MB, uplink_bytes_s=1000, round_bytes=60_000
    )
    greeted(at, "clinic-as", cpus=4, memory_bytes=8000 * MB, uplink_bytes_s=1000)
    code, said = planned(at, tmp_path, "--set", FREE, "--set", "schedule=sync(deadline_s=1e6)")
    whole, limited = said["silos"]
    assert (code, limited["problem"], limited["round_bytes"]) == (0, "", 60_000)
    assert whole["line_s"] - limited["line_s"] > (said["bytes"]["round"]["up"] - 60_000) / 1000 - 1
    code, said = planned(
        at, tmp_path, "--set", "codec=int8()", "--set", "schedule=sync(deadline_s=1e6)"
    )
    assert code == 1 and "the least update of this study is larger" in said["silos"][1]["problem"]
    assert "let silos send less" in said["silos"][1]["remedy"] and not said["silos"][0]["problem"]


def test_hours_that_cannot_meet_the_deadline_are_named_with_the_deadline_that_can(at, tmp_path):
    greeted(at, "clinic-as", cpus=4, memory_bytes=8000 * MB, update_hours="22:00-06:00")
    code, said = planned(at, tmp_path)
    assert code == 1 and "from 22:00 to 06:00 only" in said["silos"][0]["problem"]
    (seconds,) = re.findall(r"set deadline_s=(\d+) or more", said["silos"][0]["remedy"])
    assert 16 * 3600 < int(seconds) < 17 * 3600
    code, _ = planned(at, tmp_path, "--set", f"schedule=sync(deadline_s={int(seconds) + 1})")
    assert code == 0


def test_what_fits_is_foretold_from_the_codec_alone():
    codec, most = FREE.partition("=")[2], 50_000
    whole, less = encoded.encoded(300_001, codec), encoded.encoded(300_001, codec, most)
    assert 0.98 * most < less <= most < whole
    assert encoded.encoded(300_001, codec, 10**9) == whole
