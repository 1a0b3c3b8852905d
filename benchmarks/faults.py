"""Studies through drawn faults: ``python -m benchmarks.faults [--schedules N] [--seed S] [--cores C]``.

Without options the thousand of every day and the seeded bugs; of others what does not hold is kept by their seeds, so
that a sweep (``make sweep``) is played in parts and a break costs one of them.
The real rounds, journal, outbox and spool on simulated machines, in virtual time (``fl_server/simulation/faults``). A
trial in which something does not hold is printed with its seed and the command that plays it again; the exit code is 1.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, NamedTuple

import typer
from rich.progress import track

from benchmarks.figures import Figure, at_least, at_most, report, write
from fl_server.simulation import lot
from fl_server.simulation.faults import checks, draw
from fl_server.simulation.faults.bugs import BUGS, planted

SCHEDULES = 1000
BOUND = 200  # trials in which a seeded bug must be found
LOT = 25
AGAIN = "python -m benchmarks.faults --schedules 1 --seed {} --no-bugs --dry"


class Lot(NamedTuple):
    """What came of some trials: what does not hold by seed, the faults that fired, seconds of one core."""

    broken: dict[int, list[str]]
    fired: Counter[str]
    seconds: float


def main(
    schedules: Annotated[
        int, typer.Option(min=1, help="Trials, each with a seed of its own.")
    ] = SCHEDULES,
    seed: Annotated[int, typer.Option(help="The first seed.")] = 0,
    cores: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a core.")] = 0,
    bugs: Annotated[
        bool, typer.Option(help="Look for the seeded bugs after the daily thousand.")
    ] = True,
    dry: Annotated[bool, typer.Option("--dry", help="Keep no figures.")] = False,
) -> None:
    """Play trials, look for violations and for seeded bugs, and write benchmarks/results/faults.json."""
    cores, began = cores or os.cpu_count() or 1, time.monotonic()
    found = played(range(seed, seed + schedules), cores)
    daily = bugs and (seed, schedules) == (0, SCHEDULES)
    if daily:
        figures = [*every_day(found, cores, time.monotonic() - began), seeded()]
    else:
        what = f"in schedules {seed} to {seed + schedules - 1}"
        figures = [
            at_most(f"violations of C1-C7 {what}", len(found.broken), "", 0),
            report(f"faults fired {what}", found.fired.total(), ""),
        ]
    for figure in figures:
        print(figure.figure, figure.value, figure.unit, figure.goal or "")
    if not dry:
        asked = "" if daily else f" --seed {seed} --schedules {schedules} --no-bugs"
        write("faults", figures, f"python -m benchmarks.faults{asked}")
    raise typer.Exit(1 if found.broken else 0)


def every_day(found: Lot, cores: int, wall_s: float) -> list[Figure]:
    """Return what is kept of the thousand schedules: what does not hold, how long they take, what happened in them."""
    kinds = len(draw.EVERY)
    return [
        at_most(f"violations of C1-C7 in {SCHEDULES} schedules", len(found.broken), "", 0),
        at_most(f"1,000 schedules on {cores} cores", wall_s, "s", 60),
        at_least(f"kinds of faults that fired, of {kinds}", len(+found.fired), "", kinds),
        report("1,000 schedules, processor time", found.seconds, "s"),
        *(report(f"faults fired: {kind}", n, "") for kind, n in sorted(found.fired.items())),
    ]


def played(seeds: range, cores: int) -> Lot:
    """Return what came of the trials of these seeds; what does not hold is printed as soon as it is found."""
    lots = [seeds[at : at + LOT] for at in range(0, len(seeds), LOT)]
    broken: dict[int, list[str]] = {}
    fired: Counter[str] = Counter()
    seconds = 0.0
    with ProcessPoolExecutor(cores) as pool:
        for one in track(pool.map(_lot, lots), "trials", len(lots)):
            for number, said in sorted(one.broken.items()):
                print(
                    f"seed {number}: {'; '.join(said)}\n  again: {AGAIN.format(number)}", flush=True
                )
            broken, fired, seconds = broken | one.broken, fired + one.fired, seconds + one.seconds
    return Lot(broken, fired, seconds)


def _lot(seeds: range) -> Lot:
    lot.identify()
    began, broken, fired = time.process_time(), dict[int, list[str]](), Counter[str]()
    for seed in seeds:
        trial = draw.tried(seed)
        said = checks.violations(trial)
        fired += trial.fired
        if said:
            broken[seed] = said
    return Lot(broken, fired, time.process_time() - began)


def seeded() -> Figure:
    """Return how many of the seeded bugs are found within ``BOUND`` trials each."""
    lot.identify()
    first = {name: caught(name) for name in BUGS}
    for name, seed in first.items():
        print(f"{name}: {'not found' if seed is None else f'found by seed {seed}'}")
    found = sum(seed is not None for seed in first.values())
    return at_least(f"seeded bugs found of {len(BUGS)}, in {BOUND} schedules each", found, "", 12)


def caught(name: str) -> int | None:
    """Return the first seed whose trial shows a bug, None where none of ``BOUND`` does."""
    for seed in range(BOUND):
        with planted(BUGS[name]):
            trial = draw.tried(seed)
        if checks.violations(trial):
            return seed
    return None


if __name__ == "__main__":
    typer.run(main)
