"""The end of a study in a silo: every candidate is scored on its own text, and the best is served.

Candidates are the base, the adapter trained together, the same adapted to the silo's own text, the silo's own run
alone, and a blend of these three. Validation text is short, so the best of them may be so by chance: alone is left only
for what is ahead of it by more than the noise of that text, block by block (the one-standard-error rule of Breiman et
al. 1984, section 3.4.3).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fl_client import answer, evaluate, model, spec
from fl_client.blend import blended
from fl_client.config import Alone, Study
from fl_client.evaluate import Asked, Asking, Bits
from fl_client.model import Warm
from strategies.adapter import Adapter
from tasks.encode import Blocks
from tasks.task import Site

Texts = dict[str, Blocks]


class Choice(NamedTuple):
    """What a silo serves, and the numbers of all candidates: test scores by ``CANDIDATE/LANG/NAME``."""

    name: str
    adapter: Adapter
    numbers: dict[str, float]


class Blend(NamedTuple):
    """A mixture: the share of it that came of what all trained, and its bits on validation text."""

    share: float
    adapter: Adapter
    valid: Bits

    def total(self) -> float:
        """Return the bits of all languages."""
        return _total(self.valid)


def choose(
    made: Warm, study: Study, site: Site, valid: Texts, candidates: dict[str, Adapter]
) -> Asking[Choice]:
    """Return the candidate that validation text speaks for, of ``base``, ``together`` and what else the silo has."""
    test = evaluate.blocks(made, site.test, study.train.length)
    found = yield [Asked(x, text) for x in candidates.values() for text in (valid, test)]
    on_valid, on_test = (dict(zip(candidates, found[k::2], strict=True)) for k in (0, 1))
    share = {}
    if "alone" in candidates and study.alone.shares():
        mixed = yield from blend(study, valid, candidates, on_valid)
        candidates["blend"], on_valid["blend"] = mixed.adapter, mixed.valid
        (on_test["blend"],) = yield [Asked(mixed.adapter, test)]
        share = {"blend_share": mixed.share}
    numbers: dict[str, float] = {}
    for name, adapter in candidates.items():
        scores = evaluate.scores(on_test[name], test)
        numbers |= metrics(name, _answered(made, study, site, adapter, scores))
    name = served(on_valid, valid, study.alone)
    return Choice(name, candidates[name], numbers | share)


def blend(
    study: Study, valid: Texts, candidates: dict[str, Adapter], on_valid: dict[str, Bits]
) -> Asking[Blend]:
    """Return the mixture that does best on validation text.

    First what was adapted is mixed with the adapter together that it came from (weight-space ensembles, Wortsman et al.
    2022, arXiv 2109.01903), then the best of these with alone: a line each, not all mixtures of three.
    """
    pure = [
        Blend(1.0, candidates[name], on_valid[name])
        for name in ("together", "adapted")
        if name in candidates
    ]
    mixed: list[Blend] = []
    if "adapted" in candidates:
        found = yield from mixtures(study, valid, candidates["adapted"], candidates["together"])
        mixed = [one._replace(share=1.0) for one in found]
    other = min([*pure, *mixed], key=Blend.total)
    mixed += yield from mixtures(study, valid, other.adapter, candidates["alone"])
    return min(mixed, key=Blend.total)


def mixtures(study: Study, valid: Texts, one: Adapter, other: Adapter) -> Asking[list[Blend]]:
    """Return the mixtures of two adapters, by the shares of one that the study tries."""
    shares = study.alone.shares()
    mixed = [blended(one, other, share) for share in shares]
    found = yield [Asked(adapter, valid) for adapter in mixed]
    return list(map(Blend, shares, mixed, found))


def served(on_valid: dict[str, Bits], valid: Texts, rule: Alone) -> str:
    """Return which candidate a silo serves: the best, or alone if that one's lead over it is small or unsure."""
    size = sum(packed.bytes for packed in valid.values())
    name = best({own: _total(bits) / size for own, bits in on_valid.items()}, rule.margin)
    alone = on_valid.get("alone", {})
    if not math.isfinite(_total(alone)) or not alone:
        return name
    lead = _blocks(alone) - _blocks(on_valid[name])
    return name if sure(lead, rule.errors) else "alone"


def sure(lead: NDArray[Any], errors: float) -> bool:
    """Return whether the sum of a lead over blocks is so many standard errors above 0; one block tells of no errors."""
    noise = math.sqrt(len(lead)) * lead.std(ddof=1) if len(lead) > 1 else 0.0
    return bool(lead.sum() >= errors * noise)


def best(reached: dict[str, float], margin: float) -> str:
    """Return the best candidate on validation, if from others by ``margin`` over alone."""
    scored = {name: value for name, value in reached.items() if math.isfinite(value)}
    ranked = [name for name in ("together", "adapted", "blend", "alone", "base") if name in scored]
    winner = min(ranked, key=lambda name: scored[name], default="base")
    shared = winner in ("together", "adapted", "blend")
    if shared and scored[winner] * (1 + margin) > scored.get("alone", math.inf):
        return min(("alone", "base"), key=lambda name: scored.get(name, math.inf))
    return winner


def metrics(what: str, scores: evaluate.Scores) -> dict[str, float]:
    """Return scores by language as numbers named ``WHAT/LANG/NAME``."""
    return {f"{what}/{lang}/{n}": v for lang, own in scores.items() for n, v in own.items()}


def _total(found: Bits) -> float:
    """Return the bits of all languages, infinity where they are no number: nothing is worse."""
    total = float(sum(bits.sum() for bits in found.values()))
    return total if math.isfinite(total) else math.inf


def _blocks(found: Bits) -> NDArray[Any]:
    return np.concatenate([found[lang] for lang in sorted(found)])


def _answered(
    made: Warm, study: Study, site: Site, adapter: Adapter, scores: evaluate.Scores
) -> evaluate.Scores:
    """Return the scores on test text with the task's own, where it has any."""
    task = spec.build(study.task, "task")
    if task.score is None:
        return scores
    model.write(made, adapter)
    own = answer.scores(made, task, site.test, study)
    return {lang: found | own.get(lang, {}) for lang, found in scores.items()}
