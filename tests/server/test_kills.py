"""The trap that kills at named points, and that what is named there is ours; kills of whole studies are in e2e."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import kills, points
from benchmarks.federation import Place
from benchmarks.points import Fault

ROOT = Path(__file__).parents[2]
WRITES = "fl_client.memory.write_whole"
# A function that was taken by its name is met too, as it stays the object that it was.
PROGRAM = """
from pathlib import Path
from fl_client.memory import write_whole
for name in ("first", "second"):
    write_whole(Path(name), content=b"x")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "functions", lambda: [WRITES, "fl_client.memory.complete"])
    made = Place(tmp_path)
    kills.lay(made)
    return made


def run(place: Place) -> int:
    environment = os.environ | place.environment
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, cwd=place.folder, env=environment, check=False).returncode


def arm(place: Place, point: str, skip: int = 0) -> Path:
    asked = {"supervisor": 0, "skip": skip}
    (place.folder / "trap" / "armed" / point).write_text(json.dumps(asked))
    return place.folder / "trap" / "fired" / point


def test_a_process_is_killed_once_at_the_point_that_is_armed_and_the_next_one_lives_on(place):
    assert run(place) == 0
    for name in ("first", "second"):
        (place.folder / name).unlink()
    fired = arm(place, f"fl_client.memory.complete before in {WRITES}")
    arm(place, f"fl_client.memory.complete before in {WRITES}_of_another")
    assert run(place) == -signal.SIGKILL
    assert [path.name for path in place.folder.glob("first*")] == ["first.part"]
    assert json.loads(fired.read_text())["pid"]
    assert run(place) == 0


@pytest.mark.parametrize(("skip", "there"), [(0, {"first"}), (1, {"first", "second"})])
def test_a_point_after_a_function_is_met_when_it_has_ended_and_may_be_passed_before(
    place, skip, there
):
    fired = arm(place, f"{WRITES} after", skip)
    assert run(place) == -signal.SIGKILL
    assert fired.exists()
    assert {path.name for path in place.folder.iterdir() if path.is_file()} == there


@pytest.mark.parametrize("point", sorted({f.point for f in points.faults()}))
def test_every_point_names_functions_of_ours_and_a_side_of_the_first(point):
    name, side, *caller = point.split(" ")
    assert side in {"before", "after"}
    assert caller[:1] in ([], ["in"])
    for function in (name, *caller[1:]):
        module, *within = _split(function)
        names = {node.name: node for node in module.body if hasattr(node, "name")}
        for one in within:
            assert one in names, f"{function} is gone"
            names = {node.name: node for node in names[one].body if hasattr(node, "name")}


def _split(function: str) -> list:
    parts = function.split(".")
    at = next(
        n
        for n in range(len(parts), 0, -1)
        if (ROOT / "/".join(parts[:n])).with_suffix(".py").exists()
    )
    tree = ast.parse((ROOT / "/".join(parts[:at])).with_suffix(".py").read_text())
    return [tree, *parts[at:]]


def test_there_are_twenty_points_a_side_and_more_and_none_is_met_twice():
    found = list(points.faults())
    assert len(set(found)) == len(found)
    for side in ("hub", "silo"):
        assert len({fault.point for fault in found if fault.side == side}) >= 20


def test_a_fault_says_whether_all_of_a_side_is_killed():
    assert str(Fault("a.b before", "hub")) == "a.b before"
    assert str(Fault("a.b before", "silo", whole=True)) == "a.b before, all of the silo"
