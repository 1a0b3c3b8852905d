"""Whose update counts how much in a round: the study's weight over what the record holds as the round begins.

Nothing is kept for it. Losses stand in the committed lines of ``rounds.jsonl``, and what silos reached alone is told at
every start, so a study that is resumed weighs as it would have. A silo that was not scored keeps its newest loss; one
that never was, or that tells nothing of training alone, counts as the mean of the others does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import fsum, isfinite

from fl_server import record
from fl_server.record import Line
from fl_server.silos import Silo
from strategies.weights.weight import Seen, Weight, total, weigh


def weights(
    silos: Sequence[Silo], weight: Weight, recorded: Sequence[Line], alone: Mapping[str, float]
) -> dict[str, float]:
    """Return each silo's weight in the round that follows the recorded ones, the largest being 1."""
    names = [silo.name for silo in silos]
    counts = [total(silo.counts) for silo in silos]
    return dict(zip(names, weigh(weight, counts, seen(names, recorded, alone)), strict=True))


def largest(
    weights: Mapping[str, float], groups: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """Return of each group the largest weight of its silos; a sum is exact only over weights divided by it."""
    found: dict[str, float] = {}
    for silo, weight in weights.items():
        found |= {group: max(weight, found.get(group, 0.0)) for group in groups[silo]}
    return found


def shares(
    weights: Mapping[str, float],
    came: Sequence[tuple[str, float]],
    groups: Mapping[str, Collection[str]],
) -> dict[str, float]:
    """Return of each group the weight that came, as pairs of silo and weight, over that of all its silos, 1 at most."""
    every, own = dict[str, list[float]](), dict[str, list[float]]()
    for found, pairs in ((every, weights.items()), (own, came)):
        for silo, weight in pairs:
            for group in groups[silo]:
                found.setdefault(group, []).append(weight)
    return {group: min(1.0, fsum(held) / fsum(every[group])) for group, held in own.items()}


def seen(names: Sequence[str], recorded: Sequence[Line], alone: Mapping[str, float]) -> Seen:
    """Return the losses of these silos before every round, and their gaps to training alone, without holes."""
    newest: dict[str, float] = {}
    losses = []
    for line in recorded:
        scored = {name: record.bits_per_byte(line, name) for name in names}
        newest |= {name: loss for name, loss in scored.items() if loss is not None and _sound(loss)}
        if newest:
            losses.append(_filled([newest.get(name) for name in names]))
    told = newest.keys() & {name for name, reached in alone.items() if _sound(reached)}
    gaps = [newest[name] - alone[name] if name in told else None for name in names]
    return Seen(losses, _filled(gaps))


def _sound(loss: float) -> bool:
    return isfinite(loss) and loss >= 0


def _filled(values: Sequence[float | None]) -> list[float]:
    known = [value for value in values if value is not None]
    mean = fsum(known) / max(len(known), 1)
    return [mean if value is None else value for value in values]
