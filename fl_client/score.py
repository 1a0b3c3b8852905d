"""The end of a study in a silo: every candidate is scored on its own text, and the best is served.

Candidates are the base, the adapter trained together, the silo's own run alone, and a blend of these two.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from fl_client import answer, evaluate, model, spec
from fl_client.blend import blended
from fl_client.config import Study
from fl_client.model import Warm
from strategies.adapter import Adapter
from tasks.encode import Blocks
from tasks.task import Site


class Choice(NamedTuple):
    """What a silo serves, and the numbers of all candidates: test scores by ``CANDIDATE/LANG/NAME``."""

    name: str
    adapter: Adapter
    numbers: dict[str, float]


class Blend(NamedTuple):
    """A share of together beside the rest of alone, and its bits per byte on validation text."""

    share: float
    adapter: Adapter
    valid: float


def choose(
    made: Warm,
    study: Study,
    site: Site,
    valid: dict[str, Blocks],
    together: Adapter,
    alone: Adapter,
) -> Choice:
    """Return the candidate that is best on validation text; ``alone`` is empty where the silo has no such run."""
    candidates = {"base": {}, "together": together} | ({"alone": alone} if alone else {})
    numbers: dict[str, float] = {}
    reached: dict[str, float] = {}
    for name, adapter in candidates.items():
        reached[name] = _valid(made, adapter, valid)
        numbers |= metrics(name, _test(made, study, site))
    if alone and study.alone.shares():
        mixed = blend(made, study, valid, together, alone)
        model.write(made, mixed.adapter)
        numbers |= metrics("blend", _test(made, study, site)) | {"blend_share": mixed.share}
        candidates["blend"], reached["blend"] = mixed.adapter, mixed.valid
    name = best(reached, study.alone.margin)
    return Choice(name, candidates[name], numbers)


def blend(
    made: Warm, study: Study, valid: dict[str, Blocks], together: Adapter, alone: Adapter
) -> Blend:
    """Return the mixture that does best on validation text, of the shares that the study tries."""
    tried = ((share, blended(together, alone, share)) for share in study.alone.shares())
    mixtures = (Blend(share, adapter, _valid(made, adapter, valid)) for share, adapter in tried)
    return min(mixtures, key=lambda one: one.valid)


def best(reached: dict[str, float], margin: float) -> str:
    """Return which candidate a silo serves: the best on validation, if from others by ``margin`` over alone."""
    scored = {name: value for name, value in reached.items() if math.isfinite(value)}
    ranked = [name for name in ("together", "blend", "alone", "base") if name in scored]
    winner = min(ranked, key=lambda name: scored[name], default="base")
    shared = winner in ("together", "blend")
    if shared and scored[winner] * (1 + margin) > scored.get("alone", math.inf):
        return min(("alone", "base"), key=lambda name: scored.get(name, math.inf))
    return winner


def _valid(made: Warm, adapter: Adapter, valid: dict[str, Blocks]) -> float:
    model.write(made, adapter)  # an empty one is the base itself: B zero, the rows its own
    return evaluate.bits_per_byte(evaluate.bits(made, valid))


def metrics(what: str, scores: evaluate.Scores) -> dict[str, float]:
    """Return scores by language as numbers named ``WHAT/LANG/NAME``."""
    return {f"{what}/{lang}/{n}": v for lang, own in scores.items() for n, v in own.items()}


def _test(made: Warm, study: Study, site: Site) -> evaluate.Scores:
    scores = evaluate.bits(made, evaluate.blocks(made, site.test, study.train.length))
    task = spec.build(study.task, "task")
    for lang, own in answer.scores(made, task, site.test, study).items():
        scores[lang] |= own
    return scores
