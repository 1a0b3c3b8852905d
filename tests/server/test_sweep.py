"""A sweep: which cells it has, that none is run twice, how a rate is chosen, and what an interval is."""

from __future__ import annotations

import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fl_client import site
from fl_client.config import ConfigError, Study
from fl_client.corpus import CorpusError
from fl_server.run import RoundFailed
from fl_server.simulation import cells, choices, compare, notes, screen, sweep, tuning
from fl_server.simulation import study as studies
from fl_server.simulation.interval import interval, student
from fl_server.simulation.pool import Died

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
TWO = ["fedavg()", "ffa()"]
RATES = "0.01,0.003,0.03"


def quiet() -> Console:
    return Console(quiet=True)


def below(quantile: float, freedom: int) -> float:
    """Return the probability that Student's t stays below a value, by adding up its density."""
    x = np.linspace(0, quantile, 20_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = (1 + x**2 / freedom) ** (-(freedom + 1) / 2) * scale / math.sqrt(freedom * math.pi)
    return 0.5 + float(np.sum((density[1:] + density[:-1]) * np.diff(x)) / 2)


@pytest.mark.parametrize("freedom", [*range(1, 21), 25, 30, 40, 60, 120])
def test_a_tabled_quantile_is_student_s(freedom):
    assert below(student(freedom), freedom) == pytest.approx(0.975, abs=5e-6)


@pytest.mark.parametrize("freedom", [21, 24, 29, 39, 59, 100, 5000])
def test_between_two_tabled_quantiles_the_wider_one_is_taken(freedom):
    assert 0.975 <= below(student(freedom), freedom) < 0.977


@quick
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_an_interval_is_the_mean_and_t_standard_errors(values):
    found = interval(values)
    assert found is not None and found.half is not None
    assert found.mean == pytest.approx(np.mean(values), abs=1e-9)
    slow = student(len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    assert found.half == pytest.approx(slow, abs=1e-6)


def test_one_seed_has_no_interval_and_a_lacking_seed_no_mean():
    assert interval([1.5]) == ([1.5], 1.5, None)
    assert interval([1.5, None]) is None
    assert interval([]) is None


def test_what_is_swept_has_defaults_from_the_study():
    study = Study(seed=4)
    assert choices.choices(study, TWO) == (TWO, [0.0025, 0.005, 0.01], [4, 5, 6], False)
    again = choices.choices(study, [*TWO, *TWO], "0.01, 0.003,0.01,0.03", "9,2,9")
    assert again == (TWO, [0.003, 0.01, 0.03], [9, 2], False)


@pytest.mark.parametrize(
    ("rates", "seeds", "words"),
    [
        ("0.01,0.02", "", "fewer than 3"),
        ("0.01,0.02,0.02", "", "fewer than 3"),
        ("0.01,fast,1", "", "numbers above 0"),
        ("0.1,nan", "", "^--rates='0.1,nan' must be"),
        (RATES, str(2**53), "whole numbers from 0 to"),
        (RATES, "7,x", "whole numbers"),
        (RATES, "-1", "whole numbers"),
        (RATES, "7,", "whole numbers"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_plain_words(rates, seeds, words):
    with pytest.raises(ConfigError, match=words):
        choices.choices(Study(), TWO, rates, seeds)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fedavg(lora='language')", 'fedavg(lora="language")'),
        ("fedavg()", "fedavg"),
        ("fedprox(0.1)", "fedprox(0-1)"),
    ],
)
def test_two_strategies_that_would_have_one_folder_are_refused_before_anything_is_trained(
    one, other, tmp_path
):
    with pytest.raises(ConfigError, match="would both be run in the folder"):
        choices.choices(Study(), [one, "ffa()", other], RATES)
    with pytest.raises(ConfigError, match="would both be run in the folder"):
        compare.compare(Study(), [one, "ffa()", other], tmp_path, quiet())
    assert not list(tmp_path.iterdir())


@pytest.fixture
def todo():
    study = Study.model_validate({"alone": {"enabled": False}, "weights": "qffl()"})
    return sweep.planned(study, choices.choices(study, TWO, RATES, "7,8"), silos=4)


def test_every_method_meets_every_rate_with_every_seed_and_the_baselines_are_always_there(todo):
    grid = {(cell.method, cell.rate, cell.seed) for cell in todo}
    assert len(grid) == len(todo) == 3 * 3 * 2
    assert {method for method, _, _ in grid} == {*TWO, "centralised"}
    assert len({cell.name for cell in todo}) == len(todo)
    assert todo[0].name == "fedavg-0.003-7"
    for cell in todo:
        assert (cell.study.train.lr, cell.study.seed) == (cell.rate, cell.seed)
        assert cell.study.alone.lrs() == [0.003, 0.01, 0.03]
        assert cell.study.alone.enabled == (cell.method != "centralised")
        assert cell.study.simulation.pooled == (cell.method == "centralised")
        assert cell.study.weights == ("uniform()" if cell.method == "centralised" else "qffl()")


def test_silos_train_alone_once_for_a_seed(todo):
    federated = [cell for cell in todo if cell.method != "centralised"]
    for seed in (7, 8):
        own = [cell for cell in federated if cell.seed == seed]
        assert own[0].before == ""
        assert all(after.before == cell.name for cell, after in pairwise(own))
        assert [cell.work for cell in own] == [4, 1, 1, 1, 1, 1]


def test_a_method_with_a_private_adapter_between_two_others_does_not_make_them_train_alone_anew():
    methods = ["fedavg()", "dual()", "ffa()"]
    cells = sweep.planned(Study(), choices.choices(Study(), methods, RATES, "7"), 4)
    first = {method: next(c for c in cells if c.method == method) for method in methods}
    last = [c.name for c in cells if c.method == "fedavg()"][-1]
    assert [first[m].before for m in methods] == ["", "", last]


def test_the_rate_is_chosen_with_the_first_seed_and_the_others_run_at_it_alone():
    study = Study.model_validate({"alone": {"enabled": False}, "weights": "qffl()"})
    swept = choices.choices(study, TWO, RATES, "7,8,9", first=True)
    assert swept.first and swept.seeds == [7, 8, 9]
    best = {"fedavg()": 0.01, "centralised": 0.03}
    others = sweep.planned(study, swept._replace(seeds=[8, 9]), 4, best)
    assert [(c.method, c.rate, c.seed) for c in others] == [
        (method, best[method], seed) for seed in (8, 9) for method in best
    ]
    assert others[0].before == "" and others[0].work == 4  # alone tries every rate with every seed


def test_the_best_rate_of_a_method_is_the_lowest_on_validation_whatever_broke_off():
    tried = {0.003: 1.2, 0.01: 1.1, 0.03: 1.1}
    runs = [
        tuning.Run("a", rate, 7, made_up("a", rate, 7, valid=bits)) for rate, bits in tried.items()
    ]
    broken = [tuning.Run("b", 0.01, 7, None)]
    assert tuning.rates([*runs, *broken]) == {"a": 0.01}
    assert tuning.rates([*reversed(runs), *broken]) == {"a": 0.01}


def test_a_rate_that_only_the_first_seed_tried_is_told_but_not_chosen():
    runs = [
        tuning.Run("a", rate, seed, made_up("a", rate, seed, valid=bits))
        for rate, seed, bits in [(0.003, 7, 1.0), (0.01, 7, 1.1), (0.01, 8, 1.3)]
    ]
    found = tuning.tuned(runs)["methods"]["a"]
    assert found["rate"] == 0.01 and found["valid"] == {"0.003": 1.0, "0.01": pytest.approx(1.2)}


def made_up(method: str, rate: float, seed: int, **changes: float) -> dict:
    """Return a report of two languages and two silos: the lower the rate, the better on validation only."""
    valid = changes.get("valid", 1 + rate)
    test = {"as": changes.get("test", 2 - rate), "ne": changes.get("test", 2 - rate) + 1}
    languages = {
        code: {
            "name": code.upper(),
            "before": {"bits_per_byte": 4.0},
            "alone": {"bits_per_byte": bits + 0.25 * seed},
            "after": {"bits_per_byte": bits},
        }
        for code, bits in test.items()
    }
    return {
        "languages": languages,
        "curves": {code: [[0, 0.1], [1, valid + 1], [2, valid]] for code in test},
        "silo_scores": {
            "as-1": {"alone": 2.0, "together": 2.1, "alone_lr": 0.1},
            "ne-1": {"alone": 3.0, "together": 2.9, "alone_lr": 0.2},
        },
        "study": {"alone": {"rates": "0.1,0.2,0.3"}},
        "bytes": {"up": 1000 * seed, "down": 3000, "dense_up": 9000},
        "wall_s": 1.0,
        "adapter_sha256": f"{method}-{rate}-{seed}",
    }


def runs(**changes: dict | None) -> list[tuning.Run]:
    """Return a whole sweep of made-up reports; ``changes`` are reports by the name of their cell."""
    found = []
    for method in ("fedavg()", "centralised"):
        for seed in (1, 2):
            for rate in (0.1, 0.2, 0.3):
                key = f"{method.strip('()')}_{rate * 10:.0f}_{seed}"
                report = changes.get(key, made_up(method, rate, seed))
                found.append(tuning.Run(method, rate, seed, report))
    return found


def test_a_rate_is_chosen_on_validation_though_test_text_would_choose_another():
    found = tuning.tuned(runs())["methods"]["fedavg()"]
    assert found["valid"] == {"0.1": 1.1, "0.2": 1.2, "0.3": 1.3}
    assert (found["rate"], found["edge"]) == (0.1, True)
    assert found["mean"]["values"] == pytest.approx([2.4, 2.4])  # the rate 0.3 has 2.2


def test_one_rate_is_chosen_for_all_seeds_by_its_mean_over_them():
    split = {
        "fedavg_1_1": made_up("fedavg()", 0.1, 1, valid=1.5),
        "fedavg_2_1": made_up("fedavg()", 0.2, 1, valid=1.0),
    }
    found = tuning.tuned(runs(**split))["methods"]["fedavg()"]
    assert (found["rate"], found["edge"]) == (0.2, False)


def test_a_rate_that_lacks_a_seed_cannot_be_chosen():
    found = tuning.tuned(runs(fedavg_1_2=None))["methods"]["fedavg()"]
    assert found["valid"]["0.1"] is None
    assert found["rate"] == 0.2


def test_gains_over_alone_are_taken_within_a_seed():
    found = tuning.tuned(runs())
    both = found["methods"]["fedavg()"]
    alone = found["methods"]["alone"]["mean"]["values"]
    assert alone == pytest.approx([2.4 + 0.25, 2.4 + 0.5])
    slow = [100 * (1 - 2.4 / other) for other in alone]
    assert both["gain"]["values"] == pytest.approx(slow)
    assert both["worse"]["values"] == [1, 1]
    assert both["bytes"] == {"up": 1500, "down": 3000}


def test_silos_alone_are_counted_whose_best_rate_is_the_first_or_last_tried():
    last = made_up("fedavg()", 0.1, 2)
    last["silo_scores"]["ne-1"]["alone_lr"] = 0.3
    found = tuning.tuned(runs(fedavg_1_2=last))["methods"]["alone"]
    assert found["edge"] == {"lowest": 2, "highest": 1, "of": 4}


def test_a_silo_that_was_not_scored_alone_is_at_no_edge():
    silent = {"languages": {}, "study": {"alone": {}}, "silo_scores": {"as-1": {"alone_lr": None}}}
    assert tuning.edge([silent]) == {"lowest": 0, "highest": 0, "of": 0}


def private(method: str, rank: int, alone: float) -> list[tuning.Run]:
    """Return two seeds of a method whose silos alone have a private adapter, and reach so many bits more."""
    made = [made_up(method, 0.1, seed) for seed in (1, 2)]
    for report in made:
        for row in report["languages"].values():
            row["alone"]["bits_per_byte"] += alone
    return [tuning.Run(method, 0.1, seed, made[seed - 1], rank) for seed in (1, 2)]


def test_gains_are_over_silos_alone_with_as_many_parameters_whatever_method_comes_first():
    found = tuning.tuned([*private("dual()", 16, 1.0), *runs()])["methods"]
    assert found["alone"]["private"] == 0
    assert found["alone"]["mean"]["values"] == pytest.approx([2.4 + 0.25, 2.4 + 0.5])
    for method, other in (("fedavg()", 0.0), ("dual()", 1.0)):
        slow = [100 * (1 - 2.4 / (2.4 + other + 0.25 * seed)) for seed in (1, 2)]
        assert found[method]["gain"]["values"] == pytest.approx(slow)
    assert found["dual()"]["alone"]["private"] == 16
    assert found["centralised"]["gain"] == found["fedavg()"]["gain"]


def test_alone_is_of_one_private_rank_where_the_lowest_lacks_a_seed():
    broken = {f"fedavg_{rate}_2": None for rate in (1, 2, 3)}
    found = tuning.tuned([*runs(**broken), *private("dual()", 16, 1.0)])["methods"]["alone"]
    assert found["private"] == 16
    assert found["mean"]["values"] == pytest.approx([2.4 + 1.25, 2.4 + 1.5])


def test_the_terminal_names_the_runs_alone_of_a_private_adapter_and_how_often_they_stand_at_the_edge():
    made = tuning.tuned([*runs(), *private("dual()", 16, 1.0)]) | {"seeds": [1, 2], "cells": {}}
    said = notes.swept(made, {name.partition("(")[0]: name for name in made["methods"]})
    tried = "the lowest tried in 2 of 4 runs, so try more"
    assert f"best rate of silos alone: {tried}" in said
    assert f"best rate of silos alone with a private adapter of rank 16: {tried}" in said
    assert "dual against silos alone with a private adapter of rank 16: 3.775" in said


def test_a_method_that_never_ends_is_told_without_a_result():
    broken = {f"centralised_{rate}_{seed}": None for rate in (1, 2, 3) for seed in (1, 2)}
    found = tuning.tuned(runs(**broken))["methods"]["centralised"]
    assert (found["rate"], found["mean"]) == (None, None)


def test_a_seed_without_any_result_ends_the_sweep_in_plain_words():
    broken = {f"fedavg_{rate}_2": None for rate in (1, 2, 3)}
    with pytest.raises(RoundFailed, match="seed 2"):
        tuning.tuned(runs(**broken))


@pytest.mark.parametrize(
    ("curves", "best"),
    [
        ({"as": [[0, 1.0], [1, 3.0], [2, 2.0]], "ne": [[0, 1.0], [1, 2.0], [2, 4.0]]}, 2.5),
        ({"as": [[0, 1.0], [1, 3.0], [2, 2.0]], "ne": [[0, 1.0], [2, 4.0]]}, 3.0),
        ({"as": [[1, float("nan")], [2, 5.0]], "ne": [[1, 1.0], [2, 1.0]]}, 3.0),
        ({"as": [[0, 1.0]], "ne": [[0, 1.0]]}, math.inf),
    ],
)
def test_what_a_run_reached_is_its_best_round_that_scored_every_language(curves, best):
    assert cells.reached({"curves": curves}) == best


def pretend(monkeypatch, broken=(), interrupted=""):
    """Let cells end at once, but for those that break off; return the names of those that were run."""
    ran: list[str] = []

    def finished(study, folder: Path, *_, **__):
        if folder.name == interrupted:
            raise KeyboardInterrupt
        if folder.name in broken:
            raise RoundFailed("round 1 has 0 of 4 updates [C00]")
        ran.append(folder.name)
        report = made_up("", study.train.lr, study.seed)
        report["study"] = study.model_dump(exclude={"home"})
        folder.mkdir(parents=True)
        (folder / "report.json").write_text(json.dumps(report))
        return report

    monkeypatch.setattr(cells, "finished", finished)
    return ran


def test_a_sweep_that_was_cut_short_runs_only_the_cells_that_are_not_there(
    todo, tmp_path, monkeypatch
):
    ran = pretend(monkeypatch, interrupted=todo[5].name)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(todo, tmp_path, quiet(), cells.finished)
    assert ran == [cell.name for cell in todo[:5]]
    monkeypatch.undo()
    again = pretend(monkeypatch)
    found, failed = sweep.run(todo, tmp_path, quiet(), cells.finished)
    assert again == [cell.name for cell in todo[5:]]
    assert (set(found), failed) == ({cell.name for cell in todo}, {})
    monkeypatch.undo()
    assert pretend(monkeypatch) == []
    assert sweep.run(todo, tmp_path, quiet(), cells.finished) == (found, {})


def test_a_cell_that_breaks_off_is_told_and_the_others_are_run(todo, tmp_path, monkeypatch):
    pretend(monkeypatch, broken={todo[2].name})
    found, failed = sweep.run(todo, tmp_path, quiet(), cells.finished)
    assert len(found) == len(todo) - 1
    assert failed == {todo[2].name: "round 1 has 0 of 4 updates [C00]"}


def test_a_process_that_died_ends_a_sweep_and_is_no_reason_to_choose_another_rate(
    todo, tmp_path, monkeypatch
):
    ran = pretend(monkeypatch)
    done = cells.finished

    def finished(study, folder, *given, **named):
        if folder.name == todo[2].name:
            raise Died("a process died", "Continue with --resume here")
        return done(study, folder, *given, **named)

    with pytest.raises(Died):
        sweep.run(todo, tmp_path, quiet(), finished)
    assert ran == [cell.name for cell in todo[:2]]


def test_every_seed_is_checked_before_anything_is_trained(tmp_path, monkeypatch):
    dealt = site.simulated

    def simulated(study):
        if study.seed == 8:
            raise CorpusError("silo as-1 has no text in its valid split")
        return dealt(study)

    ran = pretend(monkeypatch)
    monkeypatch.setattr(site, "simulated", simulated)
    for first in (True, False):
        swept = choices.choices(Study(), ["fedavg()"], RATES, "7,8,9", first)
        with pytest.raises(ConfigError, match=r"no text in its valid split \(with seed 8\)"):
            sweep.sweep(Study(), swept, tmp_path, quiet())
    assert ran == []


def test_a_seed_whose_silos_do_not_fit_the_parts_is_named(monkeypatch):
    study = Study(guard="median()", strategy="fedavg(rows='everyone')")
    dealt = site.simulated
    monkeypatch.setattr(site, "simulated", lambda s: dealt(s)[: 8 if s.seed == 7 else 1])
    with pytest.raises(ConfigError, match=r"\(with seed 9\)"):
        studies.prepare(study, [7, 9])


def test_a_cell_that_ended_keeps_what_is_read_of_it_and_comes_to_the_same_where_it_is_run_again(
    small, tmp_path
):
    folder = tmp_path / "cell"
    study = small(folder, strategy="dual(private=2)", alone__enabled=True, alone__rates="0.005")
    report = cells.finished(study, folder, quiet())
    assert not (folder / "journal").exists() and not list(folder.glob("silos/*/memory"))
    kept = {path.name for path in folder.glob("silos/as-1/*")}
    assert {"alone", "served"} <= kept and (folder / "adapter").is_dir()
    assert cells.finished(study, folder, quiet()) == report
    again = studies.run(study, folder, quiet(), resume=True)
    assert {key for key in report if again[key] != report[key]} <= {"wall_s"}


def test_the_terminal_says_which_cell_it_is_and_how_long_the_rest_takes(
    todo, tmp_path, monkeypatch
):
    pretend(monkeypatch)
    console = Console(record=True, width=200, file=io.StringIO())
    sweep.run(todo, tmp_path, console, cells.finished)
    said = console.export_text().splitlines()
    assert said[0] == "cell 1 of 18: fedavg() at 0.003, seed 7"
    assert all("left in all" in line for line in said[1:]) and len(said) == 18


def test_the_table_shows_every_method_with_its_rate_and_what_broke_off():
    made = tuning.tuned(runs(fedavg_3_1=None)) | {
        "seeds": [1, 2],
        "cells": {"fedavg-0.3-1": {"failed": "it broke"}, "fedavg-0.1-1": {}},
    }
    console = Console(record=True, width=160, file=io.StringIO())
    console.print(screen.swept(made))
    said = console.export_text()
    for words in ("fedavg", "own", "2.400 ±0.000", "1 cells broke off", "edge of the rates"):
        assert words in said
