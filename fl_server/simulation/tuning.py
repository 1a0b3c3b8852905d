"""What a sweep comes to: each method's rate chosen on validation text, its test scores over seeds with intervals.

One rate a method, the one with the lowest mean over seeds: a rate that lacks a seed cannot be chosen. Silos alone are
tuned harder, each silo for itself and each seed anew, which leans against the methods unless their best rate lies
beyond those tried. Gains over alone are taken within a run before the mean: seeds differ more from each other than
methods do, and silos alone have as many parameters as the method's, a private adapter too.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from statistics import fmean
from typing import Any, NamedTuple

from fl_client.config import Alone
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
    private: int = 0  # the rank of its private adapter, which silos alone have too


def tuned(runs: Sequence[Run]) -> dict[str, Any]:
    """Return ``languages``, ``before`` and ``methods`` of a sweep; raises ``RoundFailed`` if a seed has no result."""
    plain = _one_a_seed(runs)
    tables = [report["languages"] for _, report in plain]
    codes = {code: found["name"] for code, found in tables[0].items()}
    own = {"rate": None, "private": plain[0][0], "edge": edge([report for _, report in plain])}
    methods = {"alone": _scored(tables, list(codes), "alone") | own}
    for method in dict.fromkeys(run.method for run in runs):
        methods[method] = _method([r for r in runs if r.method == method], tables, list(codes))
    before = _scored(tables, list(codes), "before")
    return {"languages": codes, "before": before, "methods": methods}


def rates(runs: Sequence[Run]) -> dict[str, float]:
    """Return the rate of each method that is best on validation text; a method whose runs all broke off has none."""
    reached = [(valid(run.report), run.rate, run.method) for run in runs]
    known = [(bits, rate, method) for bits, rate, method in reached if bits is not None]
    return {method: rate for _, rate, method in sorted(known, reverse=True)}  # the best comes last


def _one_a_seed(runs: Sequence[Run]) -> list[tuple[int, Report]]:
    """Return a report of each seed, all of the lowest private rank that has one of every seed, and that rank."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    found: dict[int, dict[int, tuple[int, Report]]] = {}
    for run in sorted(runs, key=lambda run: run.private):
        if run.report is not None and run.method != CENTRALISED:
            own = (run.private, run.report)
            found.setdefault(run.private, {}).setdefault(run.seed, own)
    # Where no rank has all seeds no method has a result, and any report tells of the base.
    mixed = {seed: own for held in reversed(found.values()) for seed, own in held.items()}
    if lacking := sorted(set(seeds) - mixed.keys()):
        raise RoundFailed(
            f"no method has a result with seed {lacking[0]}; every cell broke off, as said above"
        )
    chosen = next((own for own in found.values() if len(own) == len(seeds)), mixed)
    return [chosen[seed] for seed in seeds]


def edge(reports: Sequence[Report]) -> dict[str, int]:
    """Return of how many silos, seed by seed, the best rate alone is the lowest or the highest of those tried."""
    held = {"lowest": 0, "highest": 0, "of": 0}
    for report in reports:
        tried = Alone.model_validate(report["study"]["alone"]).lrs()
        for own in report["silo_scores"].values():
            rate = own.get("alone_lr")  # none of a silo that was not scored
            held["lowest"] += rate == min(tried)
            held["highest"] += rate == max(tried)
            held["of"] += rate is not None
    return held


def _method(runs: Sequence[Run], plain: list[Table], codes: list[str]) -> dict[str, Any]:
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
    pooled = runs[0].method == CENTRALISED  # where no silo trains alone
    made |= _scored(tables, codes) | {"gain": _gain(tables, plain if pooled else tables)}
    if pooled:
        return made
    return made | {
        "alone": {
            "private": runs[0].private,
            "mean": _told([mean(table, "alone") for table in tables]),
            "edge": edge(chosen),
        },
        "worse": _told([_worse(report) for report in chosen]),
        "bytes": {way: fmean(report["bytes"][way] for report in chosen) for way in ("up", "down")},
    }


def _scored(tables: list[Table], codes: list[str], stage: str = "after") -> dict[str, Any]:
    by_language = {code: _told([_bits(row.get(code), stage) for row in tables]) for code in codes}
    means = [mean(table, stage) for table in tables]
    return {"mean": _told(means), "gain": None, "languages": by_language}


def _gain(tables: list[Table], beside: list[Table]) -> dict[str, Any] | None:
    """Return the gain over what silos reached alone in the tables ``beside``, seed by seed."""
    pairs = zip(map(mean, tables), (mean(table, "alone") for table in beside), strict=True)
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
