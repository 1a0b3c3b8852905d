"""The controls of what a silo serves: what training on, and a blend, give without anybody else.

A blend has three times the parameters, and a mean of models is often better than each; an adapted adapter was trained
for as many steps again. What is left of these gains when all comes from the same silo's text is what nobody needed to
join for. Needs the cells of same-language-of-four, whose silos hold the same text with every seed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.figures import Figure, report
from fl_client import alone, evaluate, model, score, site
from fl_client.config import Study
from fl_client.evaluate import Asked
from fl_client.model import Warm
from fl_client.tries import Begins
from fl_server import config
from strategies import scope
from strategies.adapter import Adapter
from tasks import encode
from tasks.encode import Blocks
from tasks.task import Site

SEEDS = (7, 8)
SPLIT = "same-language-of-four"


class Silo(NamedTuple):
    """A silo and what it reached alone with two seeds."""

    site: Site
    study: Study
    first: Adapter
    second: Adapter
    lr: float

    def text(self, made: Warm, split: str) -> dict[str, Blocks]:
        """Return its held-out text of a split."""
        return evaluate.blocks(made, getattr(self.site, split), self.study.train.length)


def figures(folder: Path) -> list[Figure]:
    """Return how much better than alone are a run trained on from where it stopped, and a blend with a second run."""
    cells = [_first_cell(folder.parent / SPLIT / "cells", seed) for seed in SEEDS]
    studies = [config.read(cell / "study.toml") for cell in cells]
    sites = site.simulated(studies[0])
    spoken = scope.scripts(e.lang for own in sites for e in own.train)
    made = model.warm(studies[0].model, 0, spoken, studies[0].seed)
    silos = [_silo(own, cells, studies) for own in sites]
    found = []
    for what, make in (
        ("alone, trained on as long again,", lambda silo: _again(made, silo, silo.first)),
        ("blend with a second run alone", lambda silo: _blend(made, silo)),
    ):
        gains = [_gain(made, silo, make(silo)) for silo in silos]
        found += [
            report(f"{SPLIT}: {what} below alone, mean", fmean(gains), "%"),
            report(f"{SPLIT}: {what} below alone, most of any silo", max(gains), "%"),
        ]
    return found


def _first_cell(cells: Path, seed: int) -> Path:
    """Return the first cell of a seed in which silos trained alone; its method does not matter."""
    found = sorted(cells.glob(f"*-{seed}"))
    return next(cell for cell in found if any((cell / "silos").glob("*/alone")))


def _silo(own: Site, cells: list[Path], studies: list[Study]) -> Silo:
    first, second = (
        alone.recall(cell / "silos" / own.name, alone.key(study, 0))
        for cell, study in zip(cells, studies, strict=True)
    )
    if not (first and second):
        raise SystemExit(
            f"the cells of {SPLIT} were run by another version; run it again elsewhere"
        )
    return Silo(own, studies[0], first.adapter, second.adapter, first.lr)


def _blend(made: Warm, silo: Silo) -> Adapter:
    """Return the blend that a silo would serve had all trained its second run alone."""
    valid, bits = silo.text(made, "valid"), partial(evaluate.each, made)
    others = {"together": silo.second, "adapted": _again(made, silo, silo.second)}
    candidates = others | {"alone": silo.first}
    found = bits([Asked(adapter, valid) for adapter in candidates.values()])
    on_valid = dict(zip(candidates, found, strict=True))
    return evaluate.told(score.blend(silo.study, valid, candidates, on_valid), bits).adapter


def _again(made: Warm, silo: Silo, begun: Adapter) -> Adapter:
    study, begins = silo.study, Begins(silo.study.alone.adapted(silo.lr), begun)
    blocks = encode.pack(silo.site.train, made.tokenize, made.end, study.train.length)
    valid = silo.text(made, "valid")
    return alone.fit(made, blocks, valid, study, silo.site.name, None, begins).adapter


def _gain(made: Warm, silo: Silo, other: Adapter) -> float:
    """Return the gain of what validation text speaks for, of alone and something else."""
    best = min((silo.first, other), key=lambda adapter: _bits(made, silo, adapter, "valid"))
    return 100 * (1 - _bits(made, silo, best, "test") / _bits(made, silo, silo.first, "test"))


def _bits(made: Warm, silo: Silo, adapter: Adapter, split: str) -> float:
    text = silo.text(made, split)
    (found,) = evaluate.each(made, [Asked(adapter, text)])
    return evaluate.bits_per_byte(evaluate.scores(found, text))
