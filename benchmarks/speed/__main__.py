"""``python -m benchmarks.speed WHAT``: one command a figure of speed or size, each with its peer run beside it."""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.figures import Figure, asked, at_least, at_most, report, write
from benchmarks.speed import codecs as codecs_
from benchmarks.speed import hub as hub_
from benchmarks.speed import ideal as ideal_
from benchmarks.speed import parts as parts_
from benchmarks.speed import run, training
from benchmarks.speed.measure import Cost, often, ratio, repeated
from benchmarks.speed.place import place

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bhasha-fl-benchmarks"
FLOAT = {"float32": False, "bfloat16": True}
Times = Annotated[int, typer.Option(min=1, help="Repetitions after one to warm up.")]
Silos = Annotated[int, typer.Option(min=1, help="Silos.")]
Base = Annotated[
    str, typer.Option(help="The base: 6.5M, 80M, or tiny to try the benchmark itself.")
]
Dtype = Annotated[
    list[str] | None,
    typer.Option(help="float32 or bfloat16, instead of both; say it again for another."),
]
Dry = Annotated[bool, typer.Option("--dry", help="Print figures and keep none.")]

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)


@app.command()
def hub(times: Times = 5, silos: Silos = 200, dry: Dry = False) -> None:
    """200 replies of 20 MB aggregated: CPU and memory beside Flower's FedAvg."""
    keep("hub", hub_.figures(silos, times), dry)


@app.command()
def codecs(times: Times = 9, dry: Dry = False) -> None:
    """A sparse 4-bit update beside Flower's dense message."""
    keep("codecs", codecs_.figures(times), dry)


@app.command()
def ray(
    times: Times = 5,
    silos: Silos = 100,
    base: Base = "6.5M",
    rounds: int = 3,
    dtype: Dtype = None,
    dry: Dry = False,
) -> None:
    """100 silos of a small base beside Flower on Ray: wall, CPU, and memory beside one actor of it."""
    found = against_flower(base, silos, rounds, 2, times, dtype, {"float32": 5, "bfloat16": 8})
    if not dtype or "float32" in dtype:
        with place(base, silos, rounds, 2) as own:
            pairs = [(run.ours(own, 1)[0], run.flower(own, 1)) for _ in range(times)]
        name = f"{silos} silos, {base} base: memory over Flower's on Ray with one actor, each one process of training"
        memory = 1 / ratio(pairs, lambda cost: cost.peak_bytes)
        found.append(at_most(f"{name}{often(times)}", memory, "times", 0.45))
    keep("ray", found, dry, whole=not dtype)


@app.command()
def large(
    times: Times = 5, silos: Silos = 6, base: Base = "80M", dtype: Dtype = None, dry: Dry = False
) -> None:
    """6 silos of an 80 M base beside Flower on Ray."""
    found = against_flower(base, silos, 2, 1, times, dtype, {"float32": 4, "bfloat16": 6})
    keep("large", found, dry, whole=not dtype)


@app.command()
def ideal(times: Times = 5, silos: Silos = 32, base: Base = "6.5M", dry: Dry = False) -> None:
    """A client-step beside that of the one-process PEFT ideal."""
    keep("ideal", ideal_.figures(base, silos, times, {"float32": 1.8, "bfloat16": 3}), dry)


@app.command()
def peak(times: Times = 5, silos: Silos = 32, base: Base = "6.5M", dry: Dry = False) -> None:
    """The share of the measured float32 matrix peak that training reaches."""
    keep("peak", training.of_the_peak(base, silos, times), dry)


@app.command()
def thousand(
    times: Times = 5,
    silos: Silos = 1000,
    sampled: int = 10,
    base: Base = "6.5M",
    dry: Dry = False,
) -> None:
    """1,000 silos, 10 a round, in one process: memory over that of one base with an adapter that trains."""
    keep("thousand", training.many(base, silos, sampled, times), dry)


@app.command()
def nvflare(
    times: Times = 5, silos: Silos = 10, base: Base = "6.5M", rounds: int = 3, dry: Dry = False
) -> None:
    """10 silos beside NVFlare's simulator with a process a client: memory, wall, CPU."""
    python = run.flare(CACHE)
    with place(base, silos, rounds, 2) as own:
        pairs = repeated(lambda: run.ours(own, 1)[0], lambda: run.nvflare(own, python), times)
    label = f"{silos} silos, {base} base, beside NVFlare 2.9 with a process a client{often(times)}"
    memory = 1 / ratio(pairs, lambda cost: cost.peak_bytes)
    found = [at_most(f"{label}: memory", memory, "times", 0.15), *both(label, pairs, None)]
    keep("nvflare", found, dry)


@app.command()
def parts(times: Times = 5, silos: Silos = 8, base: Base = "6.5M", dry: Dry = False) -> None:
    """How much longer a step takes with each part of local training switched off."""
    keep("parts", parts_.figures(base, silos, times), dry)


def against_flower(
    base: str,
    silos: int,
    rounds: int,
    steps: int,
    times: int,
    dtypes: list[str] | None,
    goals: dict[str, float],
) -> list[Figure]:
    """Return wall and CPU of a study of ours beside the same on Ray, for each kind of numbers."""
    wrong = set(dtypes or ()) - FLOAT.keys()
    if wrong:
        raise typer.BadParameter(
            f"--dtype {wrong.pop()} is not measured; choose {' or '.join(FLOAT)}"
        )
    found = []
    for name in dtypes or FLOAT:
        with place(base, silos, rounds, steps, FLOAT[name]) as own:
            actors = len(os.sched_getaffinity(0))
            pairs = repeated(lambda: run.ours(own)[0], lambda: run.flower(own, actors), times)  # noqa: B023
        work = f"{silos} silos, {base} base, {rounds} rounds of {steps} steps, {name}"
        label = f"{work}, beside Flower on Ray{often(times)}"
        found += both(label, pairs, goals[name])
    return found


def both(label: str, pairs: list[tuple[Cost, Cost]], goal: float | None) -> list[Figure]:
    """Return how much faster ours is, and what each took."""
    wall = ratio(pairs, lambda cost: cost.wall_s)
    found = [
        report(f"{label}: faster", wall, "x") if goal is None else at_least(f"{label}: faster", wall, "x", goal),
        report(f"{label}: less CPU", ratio(pairs, lambda cost: cost.cpu_s), "x"),
    ]  # fmt: skip
    for place_, who in enumerate(("ours", "the peer")):
        costs = [pair[place_] for pair in pairs]
        found += [
            report(f"{label}: wall, {who}", statistics.median(c.wall_s for c in costs), "s"),
            report(f"{label}: CPU, {who}", statistics.median(c.cpu_s for c in costs), "s"),
            report(f"{label}: memory, {who}", max(c.peak_bytes for c in costs) / 1e6, "MB"),
        ]
    return found


def keep(command: str, found: list[Figure], dry: bool, whole: bool = True) -> None:
    """Print figures, and keep them unless told not to; if they are not the ``whole``, beside the others."""
    for figure in found:
        held = {True: "holds ", False: "MISSED", None: "      "}[figure.holds]
        print(f"{held} {figure.figure}: {figure.value} {figure.unit} {figure.goal or ''}")
    if not dry:
        write("speed", found, f"python -m benchmarks.speed {command}", asked(), whole)
    sys.stdout.flush()


if __name__ == "__main__":
    app()
