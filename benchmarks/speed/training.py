"""Figures of training itself: beside the matrix peak, and with very many silos."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.speed import run
from benchmarks.speed.measure import often
from benchmarks.speed.place import LENGTH, place
from fl_client import shapes

STEPS, ROUNDS = 2, 4  # of which the first warms up
PEAK = """
import os, time, torch
torch.set_num_threads(len(os.sched_getaffinity(0)))
left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
took = []
for _ in range(13):
    began = time.perf_counter()
    left @ right
    took.append(time.perf_counter() - began)
print(2 * 2048**3 / min(took[3:]))
"""


def of_the_peak(base: str, silos: int, times: int) -> list[Figure]:
    """Return the share of the matrix peak, measured beside each run, that whole rounds of training reach."""
    shares, wall, cpu = [], [], []
    with place(base, silos, ROUNDS, STEPS) as own:
        # forward, and backward through a frozen base: twice 2 operations a parameter and token
        work = 4 * shapes.read(own.base).worked * LENGTH * STEPS * silos
        for _ in range(times + (times > 1)):
            _, folder = run.ours(own)
            wall.append(statistics.median(run.round_s(folder)))
            cpu.append(run.round_cpu_s(folder))
            shares.append(work / wall[-1] / matrix_peak())
    label = f"training, {silos} silos, {base} base, float32{often(times)}"
    a_step = 1e3 / (silos * STEPS)
    return [
        at_least(f"{label}: of the measured matrix peak", _middle(shares), "", 0.6),
        report(f"{label}: a client-step", _middle(wall) * a_step, "ms"),
        report(f"{label}: a client-step, CPU", _middle(cpu) * a_step, "ms"),
        report("float32 matrix product of 2048", matrix_peak() / 1e9, "GFLOP/s"),
    ]


def _middle(each: list[float]) -> float:
    """Return the median of what was measured, without the first, which warms up; of one it is that."""
    return statistics.median(each[len(each) > 1 :])


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def matrix_peak() -> float:
    """Return the operations a second of a float32 matrix product on all cores, the best of ten, in a fresh process."""
    ended = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True,
        env=run.bare() | {"OMP_NUM_THREADS": str(cores())},
    )  # fmt: skip
    return float(ended.stdout)


def many(base: str, silos: int, sampled: int, times: int) -> list[Figure]:
    """Return the memory of very many silos over that of a process with one base and one adapter that trains.

    Once with as many silos at a time as are fastest, once with one at a time, as that process has it. The memory of
    that process differs by some per cent from run to run, so it is the median of three at least.
    """
    schedule, found = f"sync(sample={sampled})", []
    with place(base, silos, 3, STEPS) as own:
        one = own._replace(silos=1, rounds=1)
        single = statistics.median(run.ideal(one, 1)["peak_bytes"][0] for _ in range(max(3, times)))
        for cohort, how in ((0, ""), (1, ", one at a time (--cohort 1)")):
            costs = []
            for _ in range(times + (times > 1)):
                cost, folder = run.ours(own, 1, cohort, study__schedule=schedule)
                _heard(folder, min(sampled, silos))
                costs.append(cost)
            label = f"{silos} silos, {sampled} a round, {base} base, one process{how}{often(times)}"
            peak = _middle([cost.peak_bytes for cost in costs])
            found += [
                at_most(f"{label}: memory over one base and adapter that trains", peak / single, "times", 1.3),
                report(f"{label}: memory", peak / 1e6, "MB"),
                report(f"{label}: wall", _middle([cost.wall_s for cost in costs]), "s"),
                report(f"{label}: CPU", _middle([cost.cpu_s for cost in costs]), "s"),
            ]  # fmt: skip
    return found


def _heard(folder: Path, sampled: int) -> None:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    asked = [sum("up" in note for note in line["silos"].values()) for line in lines[1:]]
    if asked != [sampled] * 3:
        raise SystemExit(f"{asked} silos answered in three rounds, not {sampled} in each")
