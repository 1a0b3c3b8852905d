"""The result as one page to look at: a run, or several methods side by side. No script, no network.

Bits per byte stand on logarithmic axes, so that equal distances are equal percentages. Numbers
and places are worked out here; words and shapes are the templates'.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

Report = Mapping[str, Any]
Row = dict[str, float | None]
Place = tuple[float, float]  # per cent of the width, pixels from the top
BITS = "bits_per_byte"
LABEL = 18  # pixels between two labels
LOADER = FileSystemLoader(Path(__file__).parent)
PAGES = Environment(loader=LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


class Scale(NamedTuple):
    """A logarithmic axis."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where a value stands: 0 at the low end, 100 at the high one."""
        inside = min(max(value, self.low), self.high)
        return round(100 * math.log(inside / self.low) / math.log(self.high / self.low), 2)

    def down(self, value: float, height: float) -> float:
        """Return how many pixels from the top a value stands."""
        return round(height * (1 - self.at(value) / 100), 1)


class Line(NamedTuple):
    """One series: its last value, its points, those to ring, and how far down its label is."""

    name: str
    value: float
    points: list[Place]
    ringed: list[Place]
    label: float


class Figure(NamedTuple):
    """Lines over two axes whose ticks are (place, value)."""

    height: int
    lines: list[Line]
    across: list[Place]
    up: list[Place]


def html(report: Report) -> str:
    """Return the page of one run, a whole HTML document."""
    rows = {code: _stages(found) for code, found in report["languages"].items()}
    gains = {silo: gain(s["alone"], s["together"]) for silo, s in report["silo_scores"].items()}
    scores = {name for found in report["languages"].values() for name in found["before"] or ()}
    drawn = strips(rows) | {"curves": curves(report), "scores": sorted(scores - {BITS})}
    silent = [s for s in report["silos"] if not (report["silo_scores"].get(s) or {}).get("served")]
    facts = {"rows": rows, "mean": mean(rows), "gains": gains, "gain": gain, "silent": silent}
    return PAGES.get_template("report.html.j2").render(report=report, **facts, **drawn)


def compare_html(comparison: Report) -> str:
    """Return the page of several methods on the same silos, a whole HTML document."""
    runs = dict(zip(labels(comparison["runs"]), comparison["runs"].values(), strict=True))
    languages = next(iter(runs.values()))["languages"]
    own, pool = comparison["local_only"]["languages"], comparison["centralised"] or {}
    rows: dict[str, Row] = {}
    for code, found in languages.items():
        ends = {label: _bits(run["languages"].get(code), "after") for label, run in runs.items()}
        rows[code] = {"before": _bits(found, "before"), "alone": _bits(own.get(code), "after")}
        rows[code] |= ends | {"centralised": _bits(pool.get("languages", {}).get(code), "after")}
    means = mean(rows)
    facts = {"specs": dict(zip(runs, comparison["runs"], strict=True)), "rows": rows, "mean": means}
    facts["names"] = {code: found["name"] for code, found in languages.items()}
    trained = {code: {k: v for k, v in row.items() if k != "before"} for code, row in rows.items()}
    drawn = strips(trained) | {"cost": cost(runs, means)}
    page = PAGES.get_template("compare.html.j2")
    return page.render(comparison=comparison, runs=runs, **facts, **drawn)


def scale(values: Iterable[float]) -> Scale:
    """Return an axis around the values, a little wider than they are."""
    known = [max(value, 1e-3) for value in values] or [1, 2]
    pad = max((max(known) / min(known)) ** 0.06, 1.01)
    return Scale(min(known) / pad, max(known) * pad)


def ticks(low: float, high: float) -> list[float]:
    """Return a few round values: evenly spaced on a short axis, by decade on a long one."""
    if high / low < 2.5:
        step = 10.0 ** math.floor(math.log10((high - low) / 2))
        step *= next(times for times in (1, 2, 5, 10) if (high - low) / (step * times) <= 6)
        return [
            float(f"{step * n:.6g}") for n in range(math.ceil(low / step), int(high / step) + 1)
        ]
    starts = (1, 1.5, 2, 3, 4, 6, 8) if high / low < 20 else (1, 3) if high / low < 1000 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_values = (float(f"{start}e{decade}") for decade in decades for start in starts)
    return [value for value in round_values if low <= value <= high]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the places moved ``gap`` apart, in the order given, within the bounds if they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    raised, lowered = list(wanted), list(wanted)
    for first, second in pairwise(order):
        raised[second] = max(wanted[second], raised[first] + gap)
    for first, second in pairwise(reversed(order)):
        lowered[second] = min(wanted[second], lowered[first] - gap)
    # The mean of the two keeps the gap and leaves a crowd centred where it was.
    placed = [fmean(both) for both in zip(raised, lowered, strict=True)]
    for at, i in enumerate(order):
        placed[i] = min(max(placed[i], low + gap * at), high - gap * (len(order) - 1 - at))
    return [round(place, 1) for place in placed]


def gain(alone: float | None, together: float | None) -> float | None:
    """Return the bits that training together saves over alone, in per cent; below 0 it costs."""
    return 100 * (1 - together / alone) if alone and together is not None else None


def mean(rows: Mapping[str, Row]) -> Row:
    """Return each column's mean over the languages, none where a language lacks it."""
    columns = {name: [row[name] for row in rows.values()] for name in next(iter(rows.values()), {})}
    whole = {name: [v for v in column if v is not None] for name, column in columns.items()}
    return {name: fmean(v) if len(v) == len(columns[name]) else None for name, v in whole.items()}


def strips(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Return each row's (column, value, place) on one axis, and its ticks as (place, value)."""
    known = {c: [(name, v) for name, v in row.items() if v is not None] for c, row in rows.items()}
    axis = scale(value for row in known.values() for _, value in row)
    marks = {c: [(name, v, axis.at(v)) for name, v in row] for c, row in known.items()}
    return {"strips": marks, "axis": [(axis.at(tick), tick) for tick in ticks(*axis)]}


def curves(report: Report) -> Figure:
    """Return bits per byte by round, a line for each language, the released round ringed."""
    known = {c: [p for p in line if math.isfinite(p[1])] for c, line in report["curves"].items()}
    lines = {code: line for code, line in known.items() if line}
    last = max((number for line in lines.values() for number, _ in line), default=0) or 1
    released = report["released_round"]
    common = next(iter(released.values())) if len(released) == 1 else -1
    series = []
    for code, line in lines.items():
        points = [(100 * number / last, bits) for number, bits in line]
        name, ringed = report["languages"][code]["name"], released.get(code, common)
        series.append((name, points, 100 * ringed / last))
    step = next(n * 10**e for e in range(9) for n in (1, 2, 5) if last <= 8 * n * 10**e)
    return figure(series, [(100 * n / last, n) for n in range(0, last + 1, step)])


def cost(runs: Mapping[str, Report], means: Row) -> Figure:
    """Return the mean bits per byte against the bytes sent, a point for each method."""
    sent = {label: float(run["bytes"]["up"] + run["bytes"]["down"]) for label, run in runs.items()}
    axis = scale(sent.values())
    ends = [(label, axis.at(sent[label]), means[label]) for label in runs]
    series = [(label, [(x, bits)], -1.0) for label, x, bits in ends if bits is not None]
    return figure(series, [(axis.at(tick), tick) for tick in ticks(*axis)])


def figure(series: Sequence[tuple[str, list[Place], float]], across: list[Place]) -> Figure:
    """Return series of a name, (per cent across, value) and where to ring it, as a figure."""
    height = max(320, LABEL * len(series) + 100)
    axis = scale(value for _, points, _ in series for _, value in points)
    ends = [points[-1][1] for _, points, _ in series]
    placed = spread([axis.down(end, height) for end in ends], LABEL, 8, height - 8)
    lines = []
    for (name, values, ring), end, label in zip(series, ends, placed, strict=True):
        points = [(round(x, 2), axis.down(value, height)) for x, value in values]
        lines.append(Line(name, end, points, [p for p in points if p[0] == round(ring, 2)], label))
    return Figure(height, lines, across, [(axis.down(t, height), t) for t in ticks(*axis)])


def labels(specs: Iterable[str]) -> list[str]:
    """Return a short name for each method: its first word, numbered where several share it."""
    words = [spec.partition("(")[0] for spec in specs]
    counts = [(word, words.count(word), words[:at].count(word)) for at, word in enumerate(words)]
    return [f"{word} {before + 1}" if count > 1 else word for word, count, before in counts]


def _stages(found: Report) -> Row:
    stages = {"before": "before", "alone": "alone", "together": "after"}
    return {name: _bits(found, key) for name, key in stages.items()}


def _bits(found: Report | None, stage: str) -> float | None:
    value = ((found or {}).get(stage) or {}).get(BITS)
    return float(value) if value is not None and math.isfinite(value) else None
