"""The end of a study in a silo: every candidate is scored on its own text, and the best is served.

Candidates are the base, the adapter trained together, the silo's own run alone, and a blend of these two.
"""

from __future__ import annotations

import math

from fl_client import answer, evaluate, model, spec
from fl_client.blend import blended
from fl_client.config import Study
from fl_client.model import Warm
from strategies.adapter import Adapter
from tasks.encode import Blocks
from tasks.task import Site


def choose(
    made: Warm, study: Study, site: Site, valid: dict[str, Blocks], candidates: dict[str, Adapter]
) -> tuple[dict[str, float], str]:
    """Return the test scores of all candidates by ``CANDIDATE/LANG/NAME``, and the one that is best on validation."""
    numbers: dict[str, float] = {}
    reached: dict[str, float] = {}
    for name, adapter in candidates.items():
        reached[name] = _valid(made, adapter, valid)
        numbers |= metrics(name, _test(made, study, site))
    return numbers, best(reached, study.alone.margin)


def blend(
    made: Warm, study: Study, valid: dict[str, Blocks], together: Adapter, alone: Adapter
) -> tuple[float, Adapter]:
    """Return the share of together that does best on validation text beside the rest of alone, and that mixture."""
    mixtures = {share: blended(together, alone, share) for share in study.alone.shares()}
    share = min(mixtures, key=lambda share: _valid(made, mixtures[share], valid))
    return share, mixtures[share]


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
