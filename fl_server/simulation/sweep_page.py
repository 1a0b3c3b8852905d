"""The result of a sweep as one page to look at, in the frame of a run's own: no script, no network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl_server import report
from fl_server.report import Figure, Place
from fl_server.simulation import notes

BASELINES = ("alone", "centralised")


def html(sweep: Mapping[str, Any]) -> str:
    """Return the page of a sweep, a whole HTML document."""
    names = dict(zip(sweep["methods"], report.labels(sweep["methods"]), strict=True))
    methods = {names[spec]: found for spec, found in sweep["methods"].items()}
    page = report.PAGES.get_template("sweep.html.j2")
    specs = {label: spec for spec, label in names.items() if spec not in BASELINES}
    alone, *others = notes.alones(methods)
    facts = {"specs": specs, "plain": alone, "others": others, "cost": cost(methods)}
    return page.render(sweep=sweep, methods=methods, **facts, **rows(sweep))


def cost(methods: Mapping[str, Any]) -> Figure:
    """Return the mean bits per byte against bytes sent: a point and its interval a method, a line a baseline."""
    sent = {
        name: sum(m["bytes"].values())
        for name, m in methods.items()
        if name not in BASELINES and m["mean"]
    }
    axis = report.scale(sent.values())
    series: list[tuple[str, list[Place], float]] = []
    for name, method in methods.items():
        if method["mean"] is None:
            continue
        bits = method["mean"]["mean"]
        if name in sent:
            x = axis.at(sent[name])
            low, high = ends(method["mean"])
            series.append((name, [(x, low), (x, high), (x, bits)], -1.0))
        else:
            series.append((name, [(0.0, bits), (100.0, bits)], -1.0))
    return report.figure(series, [(axis.at(tick), tick) for tick in report.ticks(*axis)])


def rows(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """Return for each language its (method, mean, place, place of either end), all on one axis, and its ticks."""
    names = report.labels(sweep["methods"])
    found = {
        code: [
            (name, method["languages"][code])
            for name, method in zip(names, sweep["methods"].values(), strict=True)
            if method["languages"].get(code)
        ]
        for code in sweep["languages"]
    }
    axis = report.scale(end for row in found.values() for _, known in row for end in ends(known))
    strips = {
        code: [(n, k["mean"], axis.at(k["mean"]), *map(axis.at, ends(k))) for n, k in row]
        for code, row in found.items()
    }
    return {"strips": strips, "axis": [(axis.at(tick), tick) for tick in report.ticks(*axis)]}


def ends(known: Mapping[str, Any]) -> tuple[float, float]:
    """Return both ends of an interval as drawn: two seeds can leave one that would push all else off the page."""
    mean, half = known["mean"], known["half"] or 0.0
    return max(mean - half, mean / 2), min(mean + half, mean * 2)
