"""The controls of what a silo serves: what training on, a blend and distilling give without anybody else.

A blend has three times the parameters, and a mean of models is often better than each; an adapted adapter was trained
for as many steps again, and a distilled one twice as many. What is left of these gains when all comes from the same
silo's text is what nobody needed to join for. In the place of what all trained together stands a second run of the silo
alone, from the same start through its text in another order: a stronger stand-in than one from a start of its own,
whose factors have no middle with the first's. Needs the first seed's cells of a split.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.progress import track

from benchmarks.figures import Figure, report
from fl_client import alone, evaluate, model, score, site, tries
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

SEED = 7


class Silo(NamedTuple):
    """A silo, what it reached alone and at which rate, and what it reached so a second time, trained on since."""

    site: Site
    study: Study
    first: Adapter
    lr: float
    second: Adapter = {}
    again: Adapter = {}

    def text(self, made: Warm, split: str) -> dict[str, Blocks]:
        """Return its held-out text of a split."""
        return evaluate.blocks(made, getattr(self.site, split), self.study.train.length)


def figures(folder: Path, split: str) -> list[Figure]:
    """Return how much better than alone a silo of a split does with a second run of its own in the others' place."""
    cell = _first_cell(folder.parent / split / "cells")
    study = config.read(cell / "study.toml")
    sites = site.simulated(study)
    spoken = scope.scripts(e.lang for own in sites for e in own.train)
    made = model.warm(study.model, 0, spoken, study.seed)
    silos = [_silo(made, own, cell, study) for own in track(sites, "second runs")]
    found = []
    for what, make in (
        ("alone, trained on as long again,", lambda silo: _again(made, silo, silo.first)),
        ("blend with a second run alone", lambda silo: _blend(made, silo)),
        ("distilled with a second run alone", lambda silo: _distilled(made, silo)),
    ):
        gains = [_gain(made, silo, make(silo)) for silo in track(silos, what)]
        found += [
            report(f"{split}: {what} below alone, mean", fmean(gains), "%"),
            report(f"{split}: {what} below alone, most of any silo", max(gains), "%"),
        ]
    return found


def _first_cell(cells: Path) -> Path:
    """Return the first cell in which silos trained alone; its method does not matter."""
    found = [c for c in sorted(cells.glob(f"*-{SEED}")) if any((c / "silos").glob("*/alone"))]
    if not found:
        raise SystemExit(f"{cells} holds no run of seed {SEED}; run that split first")
    return found[0]


def _silo(made: Warm, own: Site, cell: Path, study: Study) -> Silo:
    first = alone.recall(cell / "silos" / own.name, alone.key(study, 0))
    if first is None:
        raise SystemExit(f"{cell} was run by another version; run that split again elsewhere")
    silo = Silo(own, study, first.adapter, first.lr)
    second = _trained(made, silo, Begins(study.alone.lrs()), "again")
    return silo._replace(second=second, again=_again(made, silo, second))


def _again(made: Warm, silo: Silo, begun: Adapter) -> Adapter:
    return _trained(made, silo, Begins(silo.study.alone.adapted(silo.lr), begun))


def _distilled(made: Warm, silo: Silo) -> Adapter:
    shares = silo.study.alone.taught()
    return _trained(made, silo, tries.distilling(silo.first, silo.again, silo.lr, shares))


def _trained(made: Warm, silo: Silo, begins: Begins, order: str = "") -> Adapter:
    """Return what validation text speaks for, of what is tried on a silo's own text in an order of this name."""
    blocks = encode.pack(silo.site.train, made.tokenize, made.end, silo.study.train.length)
    valid, name = silo.text(made, "valid"), silo.site.name + order
    return alone.fit(made, blocks, valid, silo.study, name, None, begins).adapter


def _blend(made: Warm, silo: Silo) -> Adapter:
    """Return the blend that a silo would serve had all trained its second run alone."""
    valid, bits = silo.text(made, "valid"), partial(evaluate.each, made)
    candidates = {"together": silo.second, "adapted": silo.again, "alone": silo.first}
    found = bits([Asked(adapter, valid) for adapter in candidates.values()])
    on_valid = dict(zip(candidates, found, strict=True))
    return evaluate.told(score.blend(silo.study, valid, candidates, on_valid), bits).adapter


def _gain(made: Warm, silo: Silo, other: Adapter) -> float:
    """Return the gain of what validation text speaks for, of alone and something else."""
    best = min((silo.first, other), key=lambda adapter: _bits(made, silo, adapter, "valid"))
    return 100 * (1 - _bits(made, silo, best, "test") / _bits(made, silo, silo.first, "test"))


def _bits(made: Warm, silo: Silo, adapter: Adapter, split: str) -> float:
    text = silo.text(made, split)
    (found,) = evaluate.each(made, [Asked(adapter, text)])
    return evaluate.bits_per_byte(evaluate.scores(found, text))
