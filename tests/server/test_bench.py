"""``fl-sim bench``: what it can measure, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated
from unittest import mock

import numpy as np
import pytest
import typer
from flwr.supercore.inflatable import inflatable_object
from typer.testing import CliRunner

from benchmarks import figures
from benchmarks.speed import codecs, hub, measure, parts, place, run
from benchmarks.speed.__main__ import app as measured
from fl_server.simulation import bench
from fl_server.simulation.cli import app
from strategies.adapter import size

SHOWN = CliRunner()


def test_every_figure_that_is_named_can_be_measured_alone():
    known = {command.callback.__name__ for command in measured.registered_commands}
    assert set(bench.FIGURES) == known - {"parts"}  # which has no peer


def test_a_figure_that_is_none_is_refused_with_those_that_are():
    ran = SHOWN.invoke(app, ["bench", "hub", "warp"])
    assert ran.exit_code == 2
    assert "'warp' is no figure; choose of hub, codecs" in ran.output


def test_an_installed_package_without_benchmarks_says_where_they_are(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    ran = SHOWN.invoke(app, ["bench"])
    assert ran.exit_code == 2
    assert "clone the repository" in ran.output


def test_the_replies_of_the_hubs_figure_are_of_twenty_megabytes():
    assert all(19 < 4e-6 * size(hub.layout(shape)) < 20 for shape in hub.SHAPES)


def test_the_hub_makes_the_same_bytes_in_another_order_and_flower_nearly_the_same(monkeypatch):
    monkeypatch.setitem(hub.SHAPES, "small", (8, 4, 16, 2, 2))
    shapes = hub.layout("small")
    hub.identify()
    one, other = (hub.ours(7, shapes, seed) for seed in (1, 2))
    assert one["sha256"] == other["sha256"]
    np.testing.assert_allclose(one["norm"], hub.flower(7, shapes)["norm"], rtol=1e-6)


def test_a_record_of_flowers_holds_the_bytes_of_its_arrays():
    shapes = {"a.lora_A.weight": (4, 8)}
    update = hub.algebra.unflatten(hub._template(shapes), shapes)
    assert codecs.sent(codecs.record(update)) > 4 * 32


def test_what_is_sent_is_named_once_as_flower_does_where_it_sends():
    made = codecs.record({"a.lora_A.weight": np.zeros((4, 8), np.float32)})
    with mock.patch.object(
        inflatable_object, "get_object_id", wraps=inflatable_object.get_object_id
    ) as named:
        codecs.sent(made)
    assert named.call_count == 4  # all of it, the record, its array, and the one chunk of that


def test_a_goal_holds_where_all_of_its_interval_meets_it():
    sure = figures.at_least("gain", 5.5, "%", 3, 2.4)
    assert sure == ("gain +- 2.40", 5.5, "%", ">= 3", True)
    unsure = figures.at_least("gain", 5.5, "%", 3, 6.4)
    assert unsure == ("gain +- 6.40, not sure", 5.5, "%", ">= 3", False)
    assert figures.at_least("gain", 2.9, "%", 3, 6.4) == ("gain +- 6.40", 2.9, "%", ">= 3", False)
    unsure = figures.at_most("cost", 0.8, "%", 1, 0.4)
    assert unsure == ("cost +- 0.40, not sure", 0.8, "%", "<= 1", False)
    assert figures.at_most("cost", 1.0, "%", 1) == ("cost", 1.0, "%", "<= 1", True)


Texts = Annotated[list[str] | None, typer.Option()]
ASKED = typer.Typer()


@ASKED.command()
def _asked(
    what: str,
    times: int = 5,
    dtype: Texts = None,
    small: bool = False,
    out: Annotated[Path, typer.Option()] = Path("runs"),
    dry: Annotated[bool, typer.Option("--dry")] = False,
) -> None:
    typer.echo(figures.asked())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], ""),
        (["--times", "5", "--dry", "--out", "/tmp/here"], ""),
        (["--times", "1", "--small"], " --times 1 --small"),
        (["--dtype", "a b", "--dtype", "c"], " --dtype 'a b' --dtype c"),
    ],
)
def test_a_command_is_told_with_the_options_it_was_given_but_no_path(given, told):
    ran = SHOWN.invoke(ASKED, ["hub", *given])
    assert ran.exit_code == 0 and ran.output == f"{told}\n"


def test_what_was_measured_with_other_options_is_replaced_and_its_command_says_them(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    figures.write("speed", [figures.report("wide", 1, "s")], "measure", "")
    figures.write("speed", [figures.report("wide", 2, "s")], "measures", "")
    figures.write("speed", [figures.report("wide, once", 3, "s")], "measure", " --times 1")
    told = {row["command"]: row["figure"] for row in figures.held("speed")}
    assert told == {"measures": "wide", "measure --times 1": "wide, once"}
    figures.write("speed", [figures.report("wide", 4, "s")], "measure", "")
    assert [row["command"] for row in figures.held("speed")] == ["measures", "measure"]


def test_peers_run_without_what_importing_this_project_sets_for_torch():
    script = "import os; had = {*os.environ}; import fl_client; print(*{*os.environ} - had)"
    command = [sys.executable, "-c", script]
    said = subprocess.run(command, env=run.bare(), capture_output=True, text=True, check=True)
    added = {name for name in said.stdout.split() if name.startswith(("OMP_", "TORCH"))}
    assert added == run.OURS
    assert not added & run.bare().keys()


def test_what_was_measured_once_says_so():
    assert [measure.often(times) for times in (1, 5)] == [", once", ""]


SPENDS = """
import pathlib, sys, time
for _ in range(4):
    ends = time.process_time() + 0.2
    while time.process_time() < ends: pass
    with pathlib.Path(sys.argv[1]).open("a") as file:
        file.write('{"seconds": 1.0}\\n')
    time.sleep(0.2)
"""


def test_the_processor_time_of_rounds_is_that_between_their_lines(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with measure.noted(folder / run.ROUNDS) as seen:
        subprocess.run([sys.executable, "-c", SPENDS, folder / run.ROUNDS], check=True)
    (tmp_path / run.SPENT).write_text(json.dumps(seen))
    assert run.round_s(folder) == [1.0]
    assert 0.1 < run.round_cpu_s(folder) < 0.4


def test_without_a_part_of_local_training_silos_learn_the_same(tmp_path):
    with place.place("tiny", 2, 1, 2) as own:
        took = parts.trained(own.study(), list(parts.OFF))
    assert set(took) == {"float32", "bfloat16"}
    assert all(set(seconds) == set(parts.OFF) for seconds in took.values())


def test_what_is_measured_in_part_replaces_its_own_figures_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    first = [figures.report("wide", 1, "s"), figures.report("narrow", 2, "s")]
    figures.write("speed", first, "measure")
    figures.write("speed", [figures.report("narrow", 3, "s")], "measure", whole=False)
    figures.write("speed", [figures.report("narrow", 4, "s")], "another")
    rows = json.loads((tmp_path / "speed.json").read_text())
    held = [(row["command"], row["figure"], row["value"]) for row in rows]
    assert held == [("measure", "wide", 1), ("measure", "narrow", 3), ("another", "narrow", 4)]
    figures.write("speed", first[1:], "measure")
    rows = json.loads((tmp_path / "speed.json").read_text())
    assert [row["command"] for row in rows] == ["another", "measure"]


def test_a_kind_of_numbers_that_is_not_measured_is_refused():
    kinds = ["--dtype", "float32", "--dtype", "float8"]
    refused = SHOWN.invoke(measured, ["ray", *kinds, "--dry"])
    assert refused.exit_code == 2
    assert "float8" in refused.stderr and "bfloat16" in refused.stderr


LEAVES = """
import subprocess, sys
from benchmarks.speed.measure import measured
how, seconds = sys.argv[1:]
work = f"import time\\nends = time.process_time() + {seconds}\\nwhile time.process_time() < ends: pass"
left = f"import signal, subprocess, sys; {how.format(repr(work))}"
with measured() as found:
    subprocess.run([sys.executable, "-c", left], check=True)
print(found[0].cpu_s, found[0].peak_bytes)
"""
BEHIND = "subprocess.Popen([sys.executable, '-c', {}], start_new_session=True)"
FORSAKEN = (
    "signal.signal(signal.SIGCHLD, signal.SIG_IGN); subprocess.call([sys.executable, '-c', {}])"
)


def cost(how: str, seconds: float) -> tuple[float, float]:
    """Return what was measured, in seconds and bytes, of a program that starts another one like this."""
    command = [sys.executable, "-c", LEAVES, how, str(seconds)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    cpu_s, peak = map(float, ran.stdout.split())
    return cpu_s, peak


def test_processes_that_a_program_leaves_behind_are_counted_and_waited_for():
    cpu_s, peak = cost(BEHIND, 0.3)
    assert cpu_s > 0.3
    assert peak > 1_000_000


def test_processes_that_nobody_waits_for_are_counted_up_to_the_last_look():
    cpu_s, _ = cost(FORSAKEN, 1.5)
    assert cpu_s > 1.0
