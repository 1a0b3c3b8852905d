"""A client-step beside that of the one-process ideal: wall and processor time, as each is fastest and on one core."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.figures import Figure, at_least, report
from benchmarks.speed import run
from benchmarks.speed.measure import often
from benchmarks.speed.place import Place, place
from benchmarks.speed.training import ROUNDS, STEPS, cores
from fl_server import config
from fl_server.simulation.options import processes_of

SINGLE = 3  # rounds on one core, of which one counts


class Step(NamedTuple):
    """What a client-step took, in seconds."""

    wall_s: float
    cpu_s: float


class Beside(NamedTuple):
    """Ours and the ideal, each as it is fastest; both with one process of one thread; the ideal's threads."""

    ours: Step
    ideal: Step
    ours_single: Step
    ideal_single: Step
    threads: int


def figures(base: str, silos: int, times: int, goals: dict[str, float]) -> list[Figure]:
    """Return how much faster a client-step is than in one process with one base, adapters swapped, a plain loop."""
    found = []
    for name, goal in goals.items():
        with place(base, silos, ROUNDS, STEPS, name == "bfloat16") as own:
            processes = processes_of(0, config.read(own.study()))
            taken = [_beside(own) for _ in range(times + (times > 1))][times > 1 :]
        label = f"a client-step, {silos} silos, {base} base, {name}{often(times)}"
        found += _told(label, taken, goal)
        found.append(report(f"{label}: processes of ours, of one thread each", processes, ""))
    return found


def _beside(own: Place) -> Beside:
    ours = _ours(own, 0)
    # Of its choices of threads the ideal has the better one: small products gain nothing by two.
    tried = {threads: _ideal(own, threads) for threads in sorted({1, cores()})}
    best = min(tried, key=lambda threads: tried[threads].wall_s)
    single = _ours(own._replace(rounds=SINGLE), 1)
    return Beside(ours, tried[best], single, tried[1], best)


def _ours(own: Place, processes: int) -> Step:
    _, folder = run.ours(own, processes)
    steps = own.silos * own.steps
    return Step(statistics.median(run.round_s(folder)) / steps, run.round_cpu_s(folder) / steps)


def _ideal(own: Place, threads: int) -> Step:
    took = run.ideal(own, threads)
    steps = own.silos * own.steps
    return Step(statistics.median(took["wall_s"]) / steps, statistics.median(took["cpu_s"]) / steps)


def _told(label: str, taken: list[Beside], goal: float) -> list[Figure]:
    def middle(what: Callable[[Beside], float]) -> float:
        return statistics.median(map(what, taken))

    threads = ", ".join(str(n) for n in sorted({one.threads for one in taken}))
    single = "one process of one thread"
    faster = middle(lambda t: t.ideal.wall_s / t.ours.wall_s)
    less = middle(lambda t: t.ideal.cpu_s / t.ours.cpu_s)
    alike = middle(lambda t: t.ideal_single.wall_s / t.ours_single.wall_s)
    sides: dict[str, Callable[[Beside], Step]] = {
        "ours": lambda t: t.ours,
        "the ideal": lambda t: t.ideal,
        f"ours, {single}": lambda t: t.ours_single,
        f"the ideal, {single}": lambda t: t.ideal_single,
    }
    found = [
        at_least(f"{label}: faster than the one-process ideal", faster, "x", goal),
        report(f"{label}: less CPU than the one-process ideal", less, "x"),
        report(f"{label}: on one core faster than the ideal, both {single}", alike, "x"),
    ]
    for who, of in sides.items():
        wall, cpu = middle(lambda t: of(t).wall_s), middle(lambda t: of(t).cpu_s)  # noqa: B023
        found.append(report(f"{label}: {who}", wall * 1e3, "ms"))
        found.append(report(f"{label}: {who}, CPU", cpu * 1e3, "ms"))
    among = f"{label}: threads with which the ideal was sooner, of {sorted({1, cores()})}"
    return [*found, report(among, threads, "")]
