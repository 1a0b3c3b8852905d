"""The gains that the quality benchmark tells, from reports whose gains are known."""

from __future__ import annotations

import json

import pytest

from benchmarks import figures as results
from benchmarks.quality import __main__ as quality
from benchmarks.quality import codecs, gains, page, runs
from benchmarks.quality.__main__ import figures
from benchmarks.quality.splits import ONE_ROWS
from fl_server.simulation.sweep import cell_name

SEEDS, RATE = [7, 8], 0.004
PLAIN, DUAL = "fedavg()", "dual()"
# By method and silo: alone, together, blend, served.
BITS = {
    PLAIN: {"as-1": (1.0, 0.9, 0.8, "blend"), "ne-1": (2.0, 2.2, 2.1, "alone")},
    DUAL: {"as-1": (0.9, 0.9, 0.95, "together"), "ne-1": (2.1, 1.8, 1.9, "base")},
}


@pytest.fixture
def folder(tmp_path):
    """Return a folder of a sweep of two methods with two seeds, all numbers the same with both."""
    for method, silos in BITS.items():
        scores = {
            name: {"before": 3.0, "alone": a, "together": t, "blend": b, "served": served}
            for name, (a, t, b, served) in silos.items()
        }
        for seed in SEEDS:
            cell = tmp_path / "cells" / cell_name(method, RATE, seed)
            cell.mkdir(parents=True)
            report = {"silo_scores": scores, "study": {"alone": {"adapt": True}}}
            (cell / "report.json").write_text(json.dumps(report))
    spoken = {"as": {"mean": 1.0}, "ne": {"mean": 2.0}}
    row = {"rate": RATE, "edge": False, "bytes": {"up": 2e6, "down": 4e6}, "languages": spoken}
    methods = {"alone": {}} | {m: row for m in (PLAIN, DUAL, "centralised")}
    before = {"languages": {"as": {"mean": 3.0}, "ne": {"mean": 3.0}}}
    made = {"seeds": SEEDS, "rates": [RATE], "methods": methods, "before": before}
    (tmp_path / "sweep.json").write_text(json.dumps(made))
    return tmp_path


def test_gains_are_over_silos_alone_of_the_plain_method_and_over_those_of_the_same_capacity(folder):
    table = gains.table(folder)
    assert table["adapts"] is True
    plain, dual = (table["methods"][name] for name in (PLAIN, DUAL))
    assert plain["together"]["mean"]["mean"] == pytest.approx((10 - 10) / 2)
    assert plain["together"]["least"]["mean"] == pytest.approx(-10)
    assert plain["together"]["worst silo"]["mean"] == pytest.approx(100 * (1 - 2.2 / 2.0))
    assert plain["served"]["mean"]["mean"] == pytest.approx((20 + 0) / 2)
    assert plain["worse as served"] == 0
    assert dual["together"]["mean"]["mean"] == pytest.approx((10 + 10) / 2)
    assert dual["same capacity"]["mean"]["mean"] == pytest.approx((0 + 100 * (1 - 1.8 / 2.1)) / 2)
    assert dual["worse as served"] == 1  # the base, which is worse than alone
    assert dual["by silo"]["ne-1"]["mean"] == pytest.approx(10)
    assert plain["share"] == pytest.approx(100)
    assert plain["together"]["mean"]["values"] == pytest.approx([0, 0])


def test_the_plain_method_is_the_one_without_a_private_adapter_whatever_was_swept_first(folder):
    first = gains.table(folder)
    made = json.loads((folder / "sweep.json").read_text())
    made["methods"] = dict(reversed(made["methods"].items()))
    (folder / "sweep.json").write_text(json.dumps(made))
    assert list(gains.table(folder)["methods"]) == [DUAL, PLAIN]
    assert gains.table(folder) == first


def test_the_figures_name_the_method_whose_silos_serve_best(folder):
    table = gains.table(folder) | {"about": "two silos", "command": "it"}
    found = {one.figure: one for one in figures("same-language", table)}
    (served,) = (f for f in found.values() if "served below alone, mean" in f.figure)
    assert PLAIN in served.figure and served.value == pytest.approx(10) and served.holds
    said = page.section("same-language", table)
    assert "| `fedavg()` | 0.004 |" in said and page.OLDER not in said
    assert page.OLDER in page.section("same-language", table | {"adapts": False})


def test_a_goal_that_the_mean_alone_meets_does_not_hold_and_its_label_says_so(folder):
    table = gains.table(folder)
    for method in table["methods"].values():
        method["served"]["mean"] |= {"mean": 8.1, "half": 0.2}
    (served,) = (
        f for f in figures("same-language", table) if "served below alone, mean" in f.figure
    )
    assert served.figure.endswith(" +- 0.20, not sure") and served.value == 8.1
    assert served.goal == ">= 8" and served.holds is False


def test_the_share_of_the_centralised_gain_has_a_goal_with_mixed_silos_and_is_told_with_one_language_each(
    folder,
):
    table = gains.table(folder) | {"about": "two silos", "command": "it"}
    assert not [f for f in figures("same-language", table) if "share" in f.figure]
    table["methods"][ONE_ROWS] = table["methods"].pop(PLAIN)
    for split, goal in (("mixed", ">= 95"), ("universities", None)):
        (share,) = (f for f in figures(split, table) if "share" in f.figure)
        assert ONE_ROWS in share.figure and share.value == pytest.approx(100)
        assert share.goal == goal
    assert "| capacity | share | worse |" in page.section("universities", table)


def test_figures_are_told_again_from_tables_as_of_when_they_were_measured(
    folder, tmp_path, monkeypatch
):
    tables, command = tmp_path / "page" / "tables", "python -m benchmarks.quality universities"
    tables.mkdir(parents=True)
    table = gains.table(folder) | {"about": "two silos", "command": command}
    (tables / "universities.json").write_text(json.dumps(table))
    monkeypatch.setattr(quality, "TABLES", tables)
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    when = {"cpu": "one of then", "date": "2001-02-03"}
    nothing = {"value": 1.0, "unit": "%", "goal": None, "holds": None}
    ways = (("before", "x"), ("of then", command), ("of then too", command), ("after", "y"))
    rows = [{"figure": name} | nothing | {"command": of} | when for name, of in ways]
    results.keep("quality", rows)
    quality.retold()
    told = results.held("quality")
    assert [told[0], told[-1]] == [rows[0], rows[-1]]
    assert [row["figure"] for row in told[1:-1]] == [
        f.figure for f in figures("universities", table)
    ]
    assert all(row | when == row and list(row) == list(rows[0]) for row in told)
    quality.retold()
    assert results.held("quality") == told


def test_what_fewer_bytes_cost_is_judged_by_its_interval_and_how_many_fewer_by_its_goal():
    row = {"figure": f"codecs: {codecs.HUNDRED} in 24 rounds (rate 1), worse than dense +- 0.44"}
    judged = codecs.judged(row | {"value": 0.77, "date": "then"})
    assert judged["figure"].endswith("worse than dense +- 0.44, not sure")
    assert judged["holds"] is False and judged["date"] == "then"
    assert codecs.judged(judged) == judged
    fewer = {"figure": f"codecs: {codecs.HUNDRED} in 24 rounds, bytes up, times fewer than dense"}
    judged = codecs.judged(fewer | {"value": 106.3})
    assert judged["goal"] == ">= 100" and judged["holds"] is True
    other = {
        "figure": "codecs: int4() in 24 rounds, bytes up, times fewer than dense",
        "value": 7.8,
    }
    assert codecs.judged(other) == other


def test_goals_are_about_the_silos_that_are_counted_and_every_silo_is_told(folder):
    table = gains.table(folder, ("ne-1",)) | {"about": "two silos", "command": "it"}
    plain = table["methods"][PLAIN]
    assert plain["together"]["mean"]["mean"] == pytest.approx(-10)
    assert plain["together"]["worst silo"]["mean"] == pytest.approx(-10)
    assert plain["served"]["mean"]["mean"] == pytest.approx(0)
    assert plain["served by silo"]["as-1"]["mean"] == pytest.approx(20)
    assert table["methods"][DUAL]["worse as served"] == 1
    said = page.section("very-small", table)
    assert "Counted: ne-1." in said
    assert "| as-1 | 3.000 | 1.000 | +10.0 +- 0.0 | +20.0 +- 0.0 |" in said
    assert "Counted" not in page.section("very-small", table | {"counted": []})
    with pytest.raises(SystemExit, match="there is no silo kha-1; there are as-1, ne-1"):
        gains.table(folder, ("ne-1", "kha-1"))


def test_a_silo_that_was_not_scored_is_named_and_no_gain_is_told(folder):
    path = folder / "cells" / cell_name(DUAL, RATE, SEEDS[1]) / "report.json"
    report = json.loads(path.read_text())
    report["silo_scores"]["ne-1"] = dict.fromkeys(report["silo_scores"]["ne-1"])
    path.write_text(json.dumps(report | {"study": {"name": "short"}}))
    with pytest.raises(SystemExit, match="ne-1 of study short was not scored"):
        gains.table(folder)


def test_a_run_that_is_there_is_taken_only_for_the_settings_that_it_was_run_with(tmp_path):
    study = {"rounds": 12, "train": {"lr": 0.004}}
    (tmp_path / "report.json").write_text(json.dumps({"study": study}))
    assert runs.report_of(tmp_path, {"rounds": 12, "train.lr": 0.004})["study"] == study
    with pytest.raises(SystemExit, match="another rounds, train.steps; choose another --out"):
        runs.report_of(tmp_path, {"rounds": 24, "train.lr": 0.004, "train.steps": 8})
