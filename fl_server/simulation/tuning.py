"""What a sweep comes to: each method's rate chosen on validation text, its test scores over seeds with intervals.

One rate a method, the one with the lowest mean over seeds: a rate that lacks a seed cannot be chosen. Silos alone are
tuned harder, each silo for itself and each seed anew, which leans against the methods. Gains over alone are taken
within a seed before the mean, for seeds differ more from each other than methods do.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import Any, NamedTuple

from fl_server.run import RoundFailed
from fl_server.simulation import cells
from fl_server.simulation.cells import Report
from fl_server.simulation.interval import interval

Table = dict[str, Any]  # the languages of a report
BITS = "bits_per_byte"
CENTRALISED = "centralised"
WORSE = 1.001  # times the bits alone: less is what a codec's rounding makes of two equal runs


class Run(NamedTuple):
    """A cell with its report, if it ended."""

    method: str
    rate: float
    seed: int
    report: Report | None


def tuned(runs: Sequence[Run]) -> dict[str, Any]:
    """Return ``languages``, ``before`` and ``methods`` of a sweep; raises ``RoundFailed`` if a seed has no result."""
    tables = [report["languages"] for report in _one_a_seed(runs)]
    alone = [mean(table, "alone") for table in tables]
    codes = {code: found["name"] for code, found in tables[0].items()}
    methods = {"alone": _scored(tables, list(codes), "alone") | {"rate": None}}
    for method in dict.fromkeys(run.method for run in runs):
        methods[method] = _method([r for r in runs if r.method == method], alone, list(codes))
    before = _scored(tables, list(codes), "before")
    return {"languages": codes, "before": before, "methods": methods}


def rates(runs: Sequence[Run]) -> dict[str, float]:
    """Return the rate of each method that is best on validation text; a method whose runs all broke off has none."""
    reached = [(valid(run.report), run.rate, run.method) for run in runs]
    known = [(bits, rate, method) for bits, rate, method in reached if bits is not None]
    return {method: rate for _, rate, method in sorted(known, reverse=True)}  # the best comes last


def _one_a_seed(runs: Sequence[Run]) -> list[Report]:
    found: dict[int, Report] = {}
    for run in runs:
        if run.report is not None and run.method != CENTRALISED:
            found.setdefault(run.seed, run.report)
    lacking = sorted({run.seed for run in runs} - found.keys())
    if lacking:
        raise RoundFailed(
            f"no method has a result with seed {lacking[0]}; every cell broke off, as said above"
        )
    return [found[seed] for seed in dict.fromkeys(run.seed for run in runs)]


def _method(runs: Sequence[Run], alone: list[float | None], codes: list[str]) -> dict[str, Any]:
    by_rate: dict[float, list[Report | None]] = {}
    for run in sorted(runs, key=lambda run: run.rate):
        by_rate.setdefault(run.rate, []).append(run.report)
    reached = {rate: _mean(map(valid, reports)) for rate, reports in by_rate.items()}
    seeds = max(map(len, by_rate.values()))  # a rate tried with the first alone was not chosen
    known = {r: b for r, b in reached.items() if b is not None and len(by_rate[r]) == seeds}
    told = {f"{rate:g}": bits for rate, bits in reached.items()}
    if not known:
        return {"rate": None, "valid": told, "mean": None, "gain": None, "languages": {}}
    rate = min(known, key=lambda rate: (known[rate], rate))
    chosen = [report for report in by_rate[rate] if report is not None]
    made = {"rate": rate, "edge": rate in (min(by_rate), max(by_rate)), "valid": told}
    tables = [report["languages"] for report in chosen]
    made |= _scored(tables, codes) | {"gain": _gain(tables, alone)}
    if runs[0].method == CENTRALISED:
        return made
    return made | {
        "worse": _told([_worse(report) for report in chosen]),
        "bytes": {way: fmean(report["bytes"][way] for report in chosen) for way in ("up", "down")},
    }


def _scored(tables: list[Table], codes: list[str], stage: str = "after") -> dict[str, Any]:
    by_language = {code: _told([_bits(row.get(code), stage) for row in tables]) for code in codes}
    means = [mean(table, stage) for table in tables]
    return {"mean": _told(means), "gain": None, "languages": by_language}


def _gain(tables: list[Table], alone: list[float | None]) -> dict[str, Any] | None:
    pairs = zip(map(mean, tables), alone, strict=True)
    return _told([100 * (1 - own / other) if own and other else None for own, other in pairs])


def _told(values: Sequence[float | None]) -> dict[str, Any] | None:
    known = interval(values)
    return known._asdict() if known else None


def valid(report: Report | None) -> float | None:
    """Return the lowest mean over languages of a run's validation bits per byte, None where there is none."""
    best = cells.reached(report) if report else None
    return best if best is not None and isfinite(best) else None


def mean(table: Table, stage: str = "after") -> float | None:
    """Return the mean over languages of the test bits per byte, None where one of them has none."""
    return _mean(_bits(row, stage) for row in table.values())


def _mean(values: Any) -> float | None:
    known = list(values)
    return fmean(known) if known and None not in known else None


def _bits(row: Table | None, stage: str) -> float | None:
    value = ((row or {}).get(stage) or {}).get(BITS)
    return float(value) if value is not None and isfinite(value) else None


def _worse(report: Report) -> float | None:
    scores = report["silo_scores"].values()
    if any(own["alone"] is None or own["together"] is None for own in scores):
        return None
    return float(sum(own["together"] > WORSE * own["alone"] for own in scores))
