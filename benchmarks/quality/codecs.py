"""What fewer bytes cost: codecs on silos of the same language, against dense float32 of the same seed and rounds.

The rate is chosen for every codec on validation text with the first seed, as methods have theirs. All train for as
many steps; in how many rounds is told apart, for error feedback needs rounds to send what it left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.quality.runs import report_of
from benchmarks.quality.splits import ROWS, STUDY
from fl_client.config import Scalar
from fl_server.simulation.interval import interval
from fl_server.simulation.tuning import mean, valid

SEEDS = (7, 8, 9)
RATES = (0.002, 0.004, 0.008, 0.016)
STEPS = 96  # in all, in so many rounds
DENSE = "float32()"
# Where a label tells by how much it is known.
KNOWN = re.compile(r" \+- ([\d.]+)(, not sure)?$")
# A hundred times fewer bytes should cost 1 % at most; what fewer still cost is only told.
HUNDRED = "topk(0.028, 0.8) | int4()"
CODECS: dict[int, tuple[str, ...]] = {
    24: ("int4()", HUNDRED, "topk(0.01, 0.8) | int4()", "topk(0.004, 0.8) | int4()"),
    12: (HUNDRED,),
    48: (HUNDRED, "topk(0.01, 0.8) | int4()"),
}
COHORT: dict[str, Scalar] = {
    "strategy": ROWS,
    "simulation.languages": "as,ne",
    "simulation.partition": "by_language(3)",
    "alone.enabled": False,
}


def figures(folder: Path) -> list[Figure]:
    """Return how many times fewer bytes went up, and how much worse the final bits per byte are."""
    found = []
    for rounds, codecs in CODECS.items():
        dense = _tuned(folder, DENSE, rounds)
        bits = fmean(map(_bits, dense))
        found.append(report(f"codecs: {DENSE} in {rounds} rounds, bits per byte", bits, ""))
        for codec in codecs:
            found += _against(dense, _tuned(folder, codec, rounds), f"{codec} in {rounds} rounds")
    return found


def _against(dense: list[dict[str, Any]], own: list[dict[str, Any]], what: str) -> list[Figure]:
    times = fmean(r["bytes"]["dense_up"] / r["bytes"]["up"] for r in own)
    pairs = zip(own, dense, strict=True)
    worse = interval([100 * (_bits(one) / _bits(other) - 1) for one, other in pairs])
    assert worse is not None and worse.half is not None  # three seeds, each with a result
    rate = own[0]["study"]["train"]["lr"]
    label = f"codecs: {what} (rate {rate:g}), worse than dense"
    fewer = f"codecs: {what}, bytes up, times fewer than dense"
    if what.startswith(HUNDRED):
        return [at_least(fewer, times, "x", 100), at_most(label, worse.mean, "%", 1, worse.half)]
    return [
        report(fewer, times, "x"),
        report(f"{label} +- {worse.half:.2f}", worse.mean, "%"),
    ]


def judged(row: dict[str, Any]) -> dict[str, Any]:
    """Return a figure as it was measured, held against the goals as they are told now; of others the same."""
    label = row["figure"]
    if not label.startswith(f"codecs: {HUNDRED}"):
        return row
    if found := KNOWN.search(label):
        return (
            row | at_most(label[: found.start()], row["value"], "%", 1, float(found[1]))._asdict()
        )
    return row | at_least(label, row["value"], "x", 100)._asdict()


def _tuned(folder: Path, codec: str, rounds: int) -> list[dict[str, Any]]:
    """Return the reports of all seeds at the rate that is best on validation text with the first."""
    tried = {rate: _run(folder, codec, rounds, rate, SEEDS[0]) for rate in RATES}
    rate = min(tried, key=lambda rate: valid(tried[rate]) or float("inf"))
    return [tried[rate], *(_run(folder, codec, rounds, rate, seed) for seed in SEEDS[1:])]


def _run(folder: Path, codec: str, rounds: int, rate: float, seed: int) -> dict[str, Any]:
    name = "".join(c if c.isalnum() or c == "." else "-" for c in codec).strip("-")
    own: dict[str, Scalar] = {"codec": codec, "seed": seed, "train.lr": rate, "rounds": rounds}
    own |= {"train.steps": STEPS // rounds, "evaluate.every": rounds // 4}
    return report_of(folder / f"{name}-{rounds}-{rate:g}-{seed}", STUDY | COHORT | own)


def _bits(made: dict[str, Any]) -> float:
    found = mean(made["languages"])
    if found is None:
        raise SystemExit(f"{made['study']['codec']} gave no result for a language")
    return found
