"""The control of the blend: two runs alone of one silo, mixed as together and alone are.

A blend has twice the parameters, and a mean of two models is often better than either. What is left of its gain when
both come from the same silo's text is what nobody needed to join for. Needs the cells of same-language, whose silos
hold the same text with every seed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.figures import Figure, report
from fl_client import alone, evaluate, model, score, site
from fl_client.config import Study
from fl_client.model import Warm
from fl_server import config
from strategies import scope
from tasks.task import Site

SEEDS = (7, 8)
SPLIT = "same-language"


def figures(folder: Path) -> list[Figure]:
    """Return how much better a blend of two runs alone is than the first of them, the mean of all silos."""
    cells = [_first_cell(folder.parent / SPLIT / "cells", seed) for seed in SEEDS]
    studies = [config.read(cell / "study.toml") for cell in cells]
    sites = site.simulated(studies[0])
    spoken = scope.scripts(e.lang for own in sites for e in own.train)
    made = model.warm(studies[0].model, 0, spoken, studies[0].seed)
    gains = [_gain(made, own, cells, studies) for own in sites]
    label = "same-language: blend of two runs alone below one of them"
    return [
        report(f"{label}, mean", fmean(gains), "%"),
        report(f"{label}, most of any silo", max(gains), "%"),
    ]


def _first_cell(cells: Path, seed: int) -> Path:
    """Return the first cell of a seed in which silos trained alone; its method does not matter."""
    found = sorted(cells.glob(f"*-{seed}"))
    return next(cell for cell in found if any((cell / "silos").glob("*/alone")))


def _gain(made: Warm, own: Site, cells: list[Path], studies: list[Study]) -> float:
    first, second = (
        alone.recall(cell / "silos" / own.name, alone.key(study, 0))[0]
        for cell, study in zip(cells, studies, strict=True)
    )
    valid, test = (
        evaluate.blocks(made, text, studies[0].train.length) for text in (own.valid, own.test)
    )
    mixing = score.blend(studies[0], valid, second, first)
    mixed = evaluate.told(mixing, partial(evaluate.each, made)).adapter
    best = min((first, mixed), key=lambda adapter: _bits(made, adapter, valid))
    return 100 * (1 - _bits(made, best, test) / _bits(made, first, test))


def _bits(made: Warm, adapter: Any, text: Any) -> float:
    model.write(made, adapter)
    return evaluate.bits_per_byte(evaluate.bits(made, text))
