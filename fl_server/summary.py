"""The silos of a study taken together: the mean, who is worst off, how far they lie apart, what together saves.

A mean can hide a language that pays for the others, so the worst silo and the worst family stand beside it. Each silo
counts once, however much text it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from strategies.scope import languages

Table = dict[str, Any]
STAGES = ("before", "alone", "together", "served")
BITS = "bits_per_byte"


def summary(silo_scores: Mapping[str, Table]) -> Table:
    """Return by stage and score the mean, spread, worst silo and worst family; ``gap`` is together minus alone.

    ``served`` is what each silo chose on its validation text.

    A score that some silo lacks is left out: a mean over fewer silos would compare unlike with unlike. Silos that were
    not scored at all lack every one alike; they are in no number, and named.
    """
    unscored = sorted(name for name, own in silo_scores.items() if own["served"] is None)
    silo_scores = {name: own for name, own in silo_scores.items() if name not in unscored}
    table: Table = {stage: {} for stage in STAGES}
    for stage in STAGES:
        for name, values in _columns(silo_scores, stage).items():
            table[stage][name] = _spread(values, silo_scores, max if name == BITS else min)
    return table | {"gap": _gap(silo_scores), "unscored": unscored}


def served(own: Table) -> str:
    """Return under which key a silo's scores hold those of what it serves; one that was not scored has none at all."""
    what: str = own["served"] or "together"
    return "before" if what == "base" else what


def family(lang: str) -> str:
    """Return the family of a language, or its own code where the table of languages does not have it."""
    return languages()[lang].family if lang in languages() else lang


def _columns(silo_scores: Mapping[str, Table], stage: str) -> dict[str, dict[str, float]]:
    columns: dict[str, dict[str, float]] = {}
    for silo, own in silo_scores.items():
        what = served(own) if stage == "served" else stage
        found = {BITS: own[what]} | ((own.get("scores") or {}).get(what) or {})
        for name, value in found.items():
            if _known(value):
                columns.setdefault(name, {})[silo] = value
    return {name: column for name, column in columns.items() if len(column) == len(silo_scores)}


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _spread(
    values: Mapping[str, float], silo_scores: Mapping[str, Table], worst: Callable[..., Any]
) -> Table:
    families: dict[str, list[float]] = {}
    for silo, value in values.items():
        families.setdefault(family(silo_scores[silo]["language"]), []).append(value)
    means = {name: fmean(held) for name, held in families.items()}
    silo, kin = worst(values, key=values.__getitem__), worst(means, key=means.__getitem__)
    return {
        "mean": round(fmean(values.values()), 6),
        "spread": round(max(values.values()) - min(values.values()), 6),
        "worst_silo": {"name": silo, "value": round(values[silo], 6)},
        "worst_family": {"name": kin, "value": round(means[kin], 6)},
    }


def _gap(silo_scores: Mapping[str, Table]) -> Table | None:
    """Return the mean of together minus alone over the silos that have both: below 0 together needs fewer bits."""
    both = [
        (own["alone"], own["together"])
        for own in silo_scores.values()
        if own["alone"] and _known(own["alone"]) and _known(own["together"])
    ]
    if not both:
        return None
    return {
        BITS: round(fmean(together - alone for alone, together in both), 6),
        "percent": round(fmean(100 * (together / alone - 1) for alone, together in both), 4),
        "silos": len(both),
    }
