"""Silos alone beyond the rates that a split tried, where their best was the first or the last of them.

What joining gives is told against silos alone at their best rate. Where that is the lowest or the highest of those
tried, the next one beyond, half or twice as much, may be better still: it is tried here, and so on until it is not.
What a silo serves stays as it was, unless that was alone, so that gains are told as too small rather than too large.
Needs a split's cells.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from rich.progress import track

from benchmarks.figures import Figure, report
from benchmarks.quality import gains
from fl_client import alone, evaluate, model, site
from fl_client.alone import Best
from fl_client.config import Study
from fl_client.evaluate import Asked
from fl_client.model import Warm
from fl_client.tries import Begins
from fl_server import config, summary
from fl_server.simulation.sweep import cell_name
from strategies import scope
from tasks import encode
from tasks.task import Site


class Silo(NamedTuple):
    """A silo of one seed: what it served, and reached alone at the rates tried and beyond, in bits on test text."""

    served: float
    alone: float
    beyond: float
    at_edge: bool


def figures(folder: Path, split: str, counted: tuple[str, ...] = ()) -> list[Figure]:
    """Return what the silos of a split reach alone at rates beyond those tried, and what joining gives over that."""
    made = json.loads((folder.parent / split / "sweep.json").read_text("utf-8"))
    methods = gains.table(folder.parent / split, counted)["methods"]
    best = max(methods, key=lambda name: methods[name]["served"]["mean"]["mean"])
    names = [cell_name(best, methods[best]["rate"], seed) for seed in made["seeds"]]
    silos = [s for name in names for s in _seed(folder.parent / split / "cells" / name, counted)]
    over = [100 * (1 - s.beyond / s.alone) for s in silos]
    gained = [100 * (1 - min(s.served, s.beyond) / s.beyond) for s in silos]
    return [
        report(
            f"{split}: silos alone best at the first or last rate, of {len(silos)}",
            sum(s.at_edge for s in silos),
            "silos",
        ),
        report(f"{split}: alone at rates beyond, below alone, mean", fmean(over), "%"),
        report(f"{split}: alone at rates beyond, below alone, most of any silo", max(over), "%"),
        report(f"{split}: served below alone at rates beyond, mean", fmean(gained), "%"),
    ]


def _seed(cell: Path, counted: tuple[str, ...]) -> list[Silo]:
    """Return the silos of one run."""
    study = config.read(cell / "study.toml")
    scored = json.loads((cell / "report.json").read_text("utf-8"))["silo_scores"]
    sites = site.simulated(study)
    spoken = scope.scripts(e.lang for own in sites for e in own.train)
    private = config.build(study)[0].strategy.private_rank
    made = model.warm(study.model, private, spoken, study.seed)
    wanted = [own for own in sites if own.name in (counted or scored)]
    held = {own.name: _held(cell, own.name, alone.key(study, private)) for own in wanted}
    return [
        _silo(made, own, held[own.name], study, scored[own.name])
        for own in track(wanted, cell.name)
    ]


def _held(cell: Path, silo: str, key: str) -> Best:
    held = alone.recall(cell / "silos" / silo, key)
    if held is None:
        raise SystemExit(f"{cell} was run by another version; run that split again elsewhere")
    return held


def _silo(made: Warm, own: Site, held: Best, study: Study, scored: dict[str, Any]) -> Silo:
    found = beyond(made, own, study, held)
    bits = scored["alone"] if found is held else _bits(made, own, study, found)
    edges = (min(study.alone.lrs()), max(study.alone.lrs()))
    served = bits if scored["served"] == "alone" else scored[summary.served(scored)]
    return Silo(served, scored["alone"], bits, held.lr in edges)


def beyond(made: Warm, own: Site, study: Study, held: Best) -> Best:
    """Return the best of a silo alone, tried on beyond the edge of the rates as long as that is better."""
    rates = study.alone.lrs()
    factor = {min(rates): 0.5, max(rates): 2.0}.get(held.lr)
    blocks = encode.pack(own.train, made.tokenize, made.end, study.train.length)
    valid = evaluate.blocks(made, own.valid, study.train.length)
    best = held
    while factor is not None:
        begins = Begins([best.lr * factor])
        found = alone.fit(made, blocks, valid, study, own.name, None, begins)
        if found.valid >= best.valid:
            break
        best = found
    return best


def _bits(made: Warm, own: Site, study: Study, best: Best) -> float:
    text = evaluate.blocks(made, own.test, study.train.length)
    (found,) = evaluate.each(made, [Asked(best.adapter, text)])
    return evaluate.bits_per_byte(evaluate.scores(found, text))
