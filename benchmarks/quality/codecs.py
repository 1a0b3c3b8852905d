"""What fewer bytes cost: codecs on silos of the same language, against dense float32 of the same seed.

The rate is chosen for every codec on validation text with the first seed, as methods have theirs.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.figures import Figure, at_most, report
from benchmarks.quality.runs import report_of
from benchmarks.quality.splits import SAME, STUDY
from fl_client.config import Scalar
from fl_server.simulation.interval import interval
from fl_server.simulation.tuning import mean, valid

SEEDS = (7, 8, 9)
RATES = (0.002, 0.004, 0.008, 0.016)
DENSE = "float32()"
CODECS = (
    DENSE,
    "int4()",
    "topk(0.025, 0.8) | int4()",
    "topk(0.01, 0.8) | int4()",
    "topk(0.01, 0.8) | int2()",
    "topk(0.004, 0.8) | int4()",
)
COHORT: dict[str, Scalar] = {
    "strategy": SAME,
    "simulation.languages": "as,ne",
    "simulation.partition": "by_language(3)",
    "alone.enabled": False,
}


def figures(folder: Path) -> list[Figure]:
    """Return how many times fewer bytes went up, and how much worse the final bits per byte are."""
    best = {codec: _tuned(folder, codec) for codec in CODECS}
    dense, found = best[DENSE], []
    for codec in CODECS[1:]:
        times = fmean(r["bytes"]["dense_up"] / r["bytes"]["up"] for r in best[codec])
        pairs = zip(best[codec], dense, strict=True)
        worse = interval([100 * (_bits(own) / _bits(other) - 1) for own, other in pairs])
        assert worse is not None and worse.half is not None  # three seeds, each with a result
        rate = best[codec][0]["study"]["train"]["lr"]
        label = f"codecs: {codec} (rate {rate:g}), worse than dense +- {worse.half:.2f}"
        found.append(report(f"codecs: {codec}, bytes up, times fewer than dense", times, "x"))
        found.append(
            at_most(label, worse.mean, "%", 1) if times >= 100 else report(label, worse.mean, "%")
        )
    return found


def _tuned(folder: Path, codec: str) -> list[dict[str, Any]]:
    """Return the reports of all seeds at the rate that is best on validation text with the first."""
    tried = {rate: _run(folder, codec, rate, SEEDS[0]) for rate in RATES}
    rate = min(tried, key=lambda rate: valid(tried[rate]) or float("inf"))
    return [tried[rate], *(_run(folder, codec, rate, seed) for seed in SEEDS[1:])]


def _run(folder: Path, codec: str, rate: float, seed: int) -> dict[str, Any]:
    name = "".join(c if c.isalnum() or c == "." else "-" for c in codec).strip("-")
    own: dict[str, Scalar] = {"codec": codec, "seed": seed, "train.lr": rate}
    return report_of(folder / f"{name}-{rate:g}-{seed}", STUDY | COHORT | own)


def _bits(made: dict[str, Any]) -> float:
    found = mean(made["languages"])
    if found is None:
        raise SystemExit(f"{made['study']['codec']} gave no result for a language")
    return found
