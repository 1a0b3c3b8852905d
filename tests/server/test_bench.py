"""``fl-sim bench``: what it can measure, and what it says where it cannot."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
from typer.testing import CliRunner

from benchmarks import figures
from benchmarks.speed import codecs, hub
from benchmarks.speed.__main__ import app as measured
from fl_server.simulation import bench
from fl_server.simulation.cli import app
from strategies.adapter import size

SHOWN = CliRunner()


def test_every_figure_that_is_named_can_be_measured_alone():
    assert set(bench.FIGURES) == {
        command.callback.__name__ for command in measured.registered_commands
    }


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
