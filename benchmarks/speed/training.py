"""Figures of training itself: beside the one-process ideal, beside the matrix peak, and with very many silos."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.speed import run
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


def against_ideal(base: str, silos: int, times: int, goals: dict[str, float]) -> list[Figure]:
    """Return how much faster a client-step is than in one process with one base, adapters swapped, a plain loop."""
    found = []
    for name, goal in goals.items():
        with place(base, silos, ROUNDS, STEPS, name == "bfloat16") as own:
            pairs = []
            for _ in range(times + (times > 1)):
                _, folder = run.ours(own)
                # Of its choices of threads the ideal has the better one: small products gain nothing by two.
                peers = [run.ideal(own, threads)["wall_s"] for threads in sorted({1, cores()})]
                mine = statistics.median(run.round_s(folder))
                pairs.append((mine, min(map(statistics.median, peers))))
            pairs = pairs[times > 1 :]
        label = f"a client-step, {silos} silos, {base} base, {name}"
        faster = statistics.median(peer / mine for mine, peer in pairs)
        steps = silos * STEPS
        found += [
            at_least(f"{label}: faster than the one-process ideal", faster, "x", goal),
            report(f"{label}: ours", statistics.median(m for m, _ in pairs) / steps * 1e3, "ms"),
            report(f"{label}: the ideal", statistics.median(p for _, p in pairs) / steps * 1e3, "ms"),
        ]  # fmt: skip
    return found


def of_the_peak(base: str, silos: int, times: int) -> list[Figure]:
    """Return the share of the matrix peak, measured beside each run, that whole rounds of training reach."""
    shares = []
    with place(base, silos, ROUNDS, STEPS) as own:
        # forward, and backward through a frozen base: twice 2 operations a parameter and token
        work = 4 * shapes.read(own.base).worked * LENGTH * STEPS * silos
        for _ in range(times + (times > 1)):
            _, folder = run.ours(own)
            shares.append(work / statistics.median(run.round_s(folder)) / matrix_peak())
    share = statistics.median(shares[times > 1 :])
    label = f"training, {silos} silos, {base} base, float32: of the measured matrix peak"
    product = matrix_peak() / 1e9
    return [
        at_least(label, share, "", 0.6),
        report("float32 matrix product of 2048", product, "GFLOP/s"),
    ]


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0))


def matrix_peak() -> float:
    """Return the operations a second of a float32 matrix product on all cores, the best of ten, in a fresh process."""
    ended = subprocess.run(
        [sys.executable, "-c", PEAK], capture_output=True, text=True, check=True,
        env=os.environ | {"OMP_NUM_THREADS": str(cores())},
    )  # fmt: skip
    return float(ended.stdout)


def many(base: str, silos: int, sampled: int) -> list[Figure]:
    """Return the memory of very many silos over that of a process with one base and one adapter that trains.

    Once with as many silos at a time as are fastest, once with one at a time, as that process has it. The memory of
    that process differs by some per cent from run to run, so it is the median of three.
    """
    schedule, found = f"sync(sample={sampled})", []
    with place(base, silos, 3, STEPS) as own:
        one = own._replace(silos=1, rounds=1)
        single = statistics.median(run.ideal(one, 1)["peak_bytes"][0] for _ in range(3))
        for cohort, how in ((0, ""), (1, ", one at a time (--cohort 1)")):
            cost, folder = run.ours(own, 1, cohort, study__schedule=schedule)
            _heard(folder, min(sampled, silos))
            label = f"{silos} silos, {sampled} a round, {base} base, one process{how}, once"
            times = cost.peak_bytes / single
            found += [
                at_most(f"{label}: memory over one base and adapter that trains", times, "times", 1.3),
                report(f"{label}: memory", cost.peak_bytes / 1e6, "MB"),
                report(f"{label}: wall", cost.wall_s, "s"),
                report(f"{label}: CPU", cost.cpu_s, "s"),
            ]  # fmt: skip
    return found


def _heard(folder: Path, sampled: int) -> None:
    lines = [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]
    asked = [sum("up" in note for note in line["silos"].values()) for line in lines[1:]]
    if asked != [sampled] * 3:
        raise SystemExit(f"{asked} silos answered in three rounds, not {sampled} in each")
