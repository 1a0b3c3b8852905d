"""What each method of a sweep gained over silos alone: on average, for the worst silo, by silo and by language.

All are test bits per byte; rates, rounds and what a silo serves were chosen on validation text. Means over seeds come
with the 95 % interval of Student's t. ``gain`` is in per cent of the bits alone, above 0 where together needs fewer.
Silos alone are those of the method with the smallest private adapter; those of ``same capacity`` have as large a one
as the method's, as in the ``gain`` of ``sweep.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fl_server.simulation.baselines import private_rank
from fl_server.simulation.interval import interval
from fl_server.simulation.sweep import cell_name
from fl_server.summary import served

Table = dict[str, Any]
Scores = Mapping[
    str, Mapping[str, float]
]  # by silo: before, alone, together, adapted, blend, served
SETTINGS = ("adapt_rates", "distil")  # of what silos do at the end
LEVEL = 1.001  # times the bits alone: less is what rounding makes of two equal runs


def table(folder: Path, counted: Sequence[str] = ()) -> Table:
    """Return the gains of every method of the sweep in a folder, of the silos that are ``counted``, all if none are."""
    made = json.loads((folder / "sweep.json").read_text("utf-8"))
    methods = [name for name in made["methods"] if name not in ("alone", "centralised")]
    plain = _reports(folder, made, min(methods, key=private_rank))
    found = {name: _method(_reports(folder, made, name), plain, counted) for name in methods}
    for name, row in found.items():
        row |= {key: made["methods"][name][key] for key in ("rate", "edge", "bytes")}
        row["share"] = _share(made, name)
    return {
        "seeds": made["seeds"],
        "rates": made["rates"],
        "counted": list(counted),
        "adapts": plain[0]["study"]["alone"].get("adapt", False),
        "distils": bool(plain[0]["study"]["alone"].get("distil", "")),
        "settings": {key: plain[0]["study"]["alone"].get(key, "") for key in SETTINGS},
        "silos": _silos(plain),
        "methods": found,
        "centralised": {"rate": made["methods"]["centralised"]["rate"]}
        | _bits(made, "centralised"),
        "before": _bits(made),
    }


def _reports(folder: Path, made: Table, method: str) -> list[Table]:
    rate = made["methods"][method]["rate"]
    names = [cell_name(method, rate, seed) for seed in made["seeds"]]
    return [json.loads((folder / "cells" / n / "report.json").read_text("utf-8")) for n in names]


def scores(report: Table) -> Scores:
    """Return what each silo of a run reached, by stage; ``served`` is what it chose on its validation text.

    Raises ``SystemExit`` where a silo was not scored: no mean over the others would be that of the cohort.
    """
    found = {}
    for name, own in report["silo_scores"].items():
        if own["served"] is None:
            raise SystemExit(
                f"{name} of study {report['study']['name']} was not scored; run it again"
            )
        at = {
            stage: own.get(stage) for stage in ("before", "alone", "together", "adapted", "blend")
        }
        found[name] = at | {"served": own[served(own)]}
    return found


def _method(reports: Sequence[Table], plain: Sequence[Table], counted: Sequence[str]) -> Table:
    own, alone = [scores(r) for r in reports], [scores(r) for r in plain]
    ours, theirs = ([_of(one, counted) for one in each] for each in (own, alone))
    return {
        "together": _gains(ours, theirs, "together"),
        "served": _gains(ours, theirs, "served"),
        "same capacity": _gains(ours, ours, "together"),
        "by silo": _each(own, alone, "together"),
        "served by silo": _each(own, alone, "served"),
        "worse as served": fmean(map(_worse, own)),
    }


def _of(every: Scores, counted: Sequence[str]) -> Scores:
    """Return the scores of these silos, of all where none are named; raises ``SystemExit`` where one is not there."""
    if missing := sorted(set(counted) - every.keys()):
        raise SystemExit(f"there is no silo {', '.join(missing)}; there are {', '.join(every)}")
    return {name: every[name] for name in counted or every}


def _each(own: Sequence[Scores], alone: Sequence[Scores], stage: str) -> Table:
    """Return the gain of every silo, counted or not."""
    return {n: _over_seeds(own, alone, lambda o, a, n=n: _gain(o[n], a[n], stage)) for n in own[0]}


def _gains(own: Sequence[Scores], alone: Sequence[Scores], stage: str) -> Table:
    """Return the mean gain, that of the worst silo (most bits), and the least of any silo."""

    def mean(o: Scores, a: Scores) -> float:
        return fmean(_gain(o[n], a[n], stage) for n in o)

    def worst(o: Scores, a: Scores) -> float:
        return 100 * (1 - max(s[stage] for s in o.values()) / max(s["alone"] for s in a.values()))

    def least(o: Scores, a: Scores) -> float:
        return min(_gain(o[n], a[n], stage) for n in o)

    kinds: dict[str, Callable[[Scores, Scores], float]] = {
        "mean": mean,
        "worst silo": worst,
        "least": least,
    }
    return {kind: _over_seeds(own, alone, of) for kind, of in kinds.items()}


def _gain(own: Mapping[str, float], alone: Mapping[str, float], stage: str) -> float:
    return 100 * (1 - own[stage] / alone["alone"])


def _worse(own: Scores) -> float:
    return float(sum(s["served"] > LEVEL * s["alone"] for s in own.values()))


def _over_seeds(
    own: Sequence[Scores], alone: Sequence[Scores], of: Callable[[Scores, Scores], float]
) -> Table:
    found = interval([of(o, a) for o, a in zip(own, alone, strict=True)])
    assert found is not None  # every report has every silo
    return found._asdict()


def _silos(reports: Sequence[Table]) -> Table:
    """Return the mean over seeds of every silo's bits per byte before training and alone."""
    every = [scores(report) for report in reports]
    return {
        name: {stage: fmean(one[name][stage] for one in every) for stage in ("before", "alone")}
        for name in every[0]
    }


def _bits(made: Table, method: str = "") -> Table:
    """Return the mean over seeds of a method's bits per byte, by language; of the base where none is named."""
    held = made["methods"][method] if method else made["before"]
    return {"languages": {lang: row["mean"] for lang, row in held["languages"].items()}}


def _share(made: Table, method: str) -> float:
    """Return how much of the fall from base to centralised a method has, languages counting alike, in per cent."""
    bits = (_bits(made), _bits(made, method), _bits(made, "centralised"))
    base, own, pooled = (fmean(row["languages"].values()) for row in bits)
    return 100 * (base - own) / (base - pooled)
