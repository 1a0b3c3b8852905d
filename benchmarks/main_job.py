"""The figures of the main job: the demo, the same on real text, determinism, the size of the house.

``python -m benchmarks.main_job NAME`` with one of: demo, same-language, one-each, determinism, house.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import shared
from benchmarks.figures import Figure, at_least, at_most, report, true, write

ROOT = Path(__file__).parent.parent
FL_SIM = Path(sys.executable).parent / "fl-sim"
TOPIC = "main-job"
# The built-in study on real text, each silo with as much as a small office has: 12,000 characters.
REAL = ["--set=rounds=8", "--set=train.steps=10", "--set=simulation.characters=12000"]
SPLITS = {
    "same-language": ["--languages=as,or,ne,sat", "--silos=12"],
    "one-each": ["--languages=as,or,ne,sat,brx,mai,lus,kha", "--silos=8"],
}
STRATEGIES = {
    "same-language": "fedavg(lora='language', rows='language')",
    "one-each": "fedavg(lora='everyone', rows='silo', private=16)",
}

app = typer.Typer()


@app.command()
def main(name: Annotated[str, typer.Argument(help="Which figures to measure.")]) -> None:
    """Measure one group of figures and write it to benchmarks/results/main-job.json."""
    groups = {
        "demo": demo,
        "determinism": determinism,
        "house": house,
        "same-language": lambda: real("same-language"),
        "one-each": lambda: real("one-each"),
    }
    if name not in groups:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(groups)}")
    write(TOPIC, groups[name](), f"python -m benchmarks.main_job {name}")


def demo() -> list[Figure]:
    """Clone the last commit, run ``make demo`` in it, and read its report."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "bhasha-fl"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        began = time.monotonic()
        subprocess.run(["make", "demo"], cwd=clone, check=True)
        minutes = (time.monotonic() - began) / 60
        (made,) = (clone / "runs").glob("*/report.json")
        found = json.loads(made.read_text())
    figures = [at_most("make demo from a clean clone, warm pip cache", minutes, "minutes", 10)]
    for lang, row in found["languages"].items():
        before, after = row["before"]["bits_per_byte"], row["after"]["bits_per_byte"]
        alone = row["alone"]["bits_per_byte"]
        figures += _levels(f"demo {lang}", before, alone, after)
        figures.append(
            at_least(f"demo {lang}: fall from before", 100 * (1 - after / before), "%", 50)
        )
        figures.append(at_least(f"demo {lang}: below alone", 100 * (1 - after / alone), "%", 3))
    return figures


def _levels(label: str, before: float, alone: float, together: float) -> list[Figure]:
    rows = {"before": before, "alone": alone, "together": together}
    return [report(f"{label}: {name}", value, "bits per byte") for name, value in rows.items()]


def real(split: str) -> list[Figure]:
    """Compare together, alone and centralised on the text of shared/data."""
    if not shared.SHARED.is_dir():
        raise SystemExit(f"{shared.SHARED} is not there: these figures need its text")
    with tempfile.TemporaryDirectory() as folder:
        command = [FL_SIM, "compare", f"--strategies={STRATEGIES[split]}", *SPLITS[split], *REAL]
        command += [f"--data={shared.languages()}", f"--out={folder}/run", "--json"]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    made = json.loads(ran.stdout)
    (run,) = made["runs"].values()
    figures = []
    for lang, row in run["languages"].items():
        levels = (row[name]["bits_per_byte"] for name in ("before", "alone", "after"))
        figures += _levels(f"{split} {lang}", *levels)
        pooled = made["centralised"]["languages"][lang]["after"]["bits_per_byte"]
        figures.append(report(f"{split} {lang}: centralised", pooled, "bits per byte"))
    for name, own in run["silo_scores"].items():
        gain = 100 * (1 - own["together"] / own["alone"])
        figures.append(
            report(f"{split} silo {name}: serves {own['served']}; together below alone", gain, "%")
        )
    return figures


def determinism() -> list[Figure]:
    """Run a study twice with one seed, and once killed in round 3 and resumed; compare the adapters."""
    options = ["--set=rounds=4", "--set=train.steps=3", "--set=alone.enabled=false"]
    options += ["--set=evaluate.characters=500"]
    with tempfile.TemporaryDirectory() as folder:
        runs = [Path(folder) / name for name in ("one", "two", "killed")]
        for run in runs[:2]:
            subprocess.run([FL_SIM, "run", *options, "--out", run], check=True, capture_output=True)
        _kill_in_round_3(runs[2], options)
        subprocess.run([FL_SIM, "run", "--resume", runs[2]], check=True, capture_output=True)
        one, two, killed = (json.loads((run / "report.json").read_text()) for run in runs)
    return [
        report("adapter_sha256 of the study", one["adapter_sha256"], ""),
        true(
            "two runs with one seed: equal adapter_sha256",
            one["adapter_sha256"] == two["adapter_sha256"],
        ),
        true(
            "killed in round 3 and resumed: the same",
            one["adapter_sha256"] == killed["adapter_sha256"],
        ),
    ]


def _kill_in_round_3(run: Path, options: list[str]) -> None:
    command = [FL_SIM, "run", *options, "--out", run]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "journal" / "round-00002.json").exists():
        if process.poll() is not None:
            raise SystemExit("the run ended before it could be killed")
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if (run / "journal" / "round-00003.json").exists():
        raise SystemExit("the kill came too late: round 3 was committed")


def house() -> list[Figure]:
    """Count files, lines, the longest file and function, and the tests."""
    packages = ("fl_server", "fl_client", "strategies", "tasks")
    files = [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]
    lines = {path: len(path.read_text().splitlines()) for path in files}
    functions = {
        f"{path.relative_to(ROOT)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    longest, largest = (
        max(lines, key=lambda p: lines[p]),
        max(functions, key=lambda f: functions[f]),
    )
    return [
        report("house: files", len(files), "files"),
        report("house: lines", sum(lines.values()), "lines"),
        at_most(f"house: longest file, {longest.relative_to(ROOT)}", lines[longest], "lines", 200),
        at_most(f"house: longest function, {largest}", functions[largest], "lines", 40),
        *_tests(),
    ]


def _tests() -> list[Figure]:
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - began) / 60
    counted: dict[str, Any] = {"summary": ran.stdout.strip().splitlines()[-1]}
    return [
        true("default tests pass", ran.returncode == 0),
        report("default tests", counted["summary"], ""),
        at_most("default tests: minutes on this machine", minutes, "minutes", 10),
    ]


if __name__ == "__main__":
    app()
