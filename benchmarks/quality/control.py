"""The controls of what a silo serves: what training on, a blend and distilling give without anybody else.

A blend has three times the parameters, and a mean of models is often better than each; an adapted adapter was trained
for as many steps again, and a distilled one twice as many. What is left of these gains when all comes from the same
silo's text is what nobody needed to join for. In the place of what all trained together stands a second run of the silo
alone, from the same start through its text in another order: a stronger stand-in than one from a start of its own,
whose factors have no middle with the first's. Needs a split's cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from fl_server.simulation.interval import interval
from strategies import scope
from strategies.adapter import Adapter
from tasks import encode
from tasks.encode import Blocks
from tasks.task import Site


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
    """Return how much better than alone a silo of a split does with a second run of its own in the others' place.

    Means over silos come with their 95 % interval over seeds; the silo that gains most does so on average over them.
    """
    runs = [_seed(cell) for cell in _cells(folder.parent / split / "cells")]
    return [
        figure for what in CONTROLS for figure in _figures(split, what, [run[what] for run in runs])
    ]


def _figures(split: str, what: str, seeds: Sequence[Mapping[str, float]]) -> list[Figure]:
    """Return the figures of a control, from what it gives each silo, one table a seed."""
    over = interval([fmean(gains.values()) for gains in seeds])
    assert over is not None  # there is a seed, and each has all silos
    known = "one seed" if over.half is None else f"+- {over.half:.2f}"
    by_silo = {name: fmean(gains[name] for gains in seeds) for name in seeds[0]}
    most = max(by_silo, key=lambda name: by_silo[name])
    return [
        report(f"{split}: {what} below alone, mean ({known})", over.mean, "%"),
        report(f"{split}: {what} below alone, most of any silo ({most})", by_silo[most], "%"),
    ]


def _cells(cells: Path) -> list[Path]:
    """Return for each seed the first cell in which silos trained alone; its method does not matter."""
    found = {}
    for cell in sorted(cells.glob("*")):
        if any((cell / "silos").glob("*/alone")):
            found.setdefault(config.read(cell / "study.toml").seed, cell)
    if not found:
        raise SystemExit(f"{cells} holds no run; run that split first")
    return [found[seed] for seed in sorted(found)]


def _seed(cell: Path) -> dict[str, dict[str, float]]:
    """Return by control what it gives each silo of a run, in per cent of the bits alone."""
    study = config.read(cell / "study.toml")
    sites = site.simulated(study)
    spoken = scope.scripts(e.lang for own in sites for e in own.train)
    made = model.warm(study.model, 0, spoken, study.seed)
    silos = [
        _silo(made, own, cell, study) for own in track(sites, f"second runs, seed {study.seed}")
    ]
    return {
        what: {s.site.name: _gain(made, s, make(made, s)) for s in track(silos, what)}
        for what, make in CONTROLS.items()
    }


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


CONTROLS = {
    "alone, trained on as long again,": lambda made, silo: _again(made, silo, silo.first),
    "blend with a second run alone": _blend,
    "distilled with a second run alone": _distilled,
}
