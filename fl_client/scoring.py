"""Scoring as a silo's work: it asks for bits and is told them, so that several silos can be scored at once."""

from __future__ import annotations

from functools import partial

from fl_client import alone, basis, evaluate, export, rail, ranks, score, served
from fl_client.evaluate import Asked, Asking
from fl_client.model import Warm
from fl_client.score import Choice
from fl_client.workers import Result, Work
from strategies.adapter import Adapter
from strategies.strategy import Strategy


def asking(work: Work, made: Warm, strategy: Strategy) -> Asking[Result]:
    """Return validation bits by language of the adapter received; at the end also the test of all candidates."""
    together = basis.received(made, strategy, work)
    if not work.study.evaluate.every:
        return _served(work, made, Choice("together", together, {}), None)
    valid = evaluate.blocks(made, work.site.valid, work.study.train.length)
    if not work.order.final:
        (found,) = yield [Asked(together, valid)]
        return Result({}, score.metrics("valid", evaluate.scores(found, valid)), {})
    own = alone.recall(work.home, alone.key(work.study, strategy.private_rank))
    held = {"alone": own, "adapted": rail.adapted(work, together)}
    candidates: dict[str, Adapter] = {"base": {}, "together": together}
    candidates |= {name: best.adapter for name, best in held.items() if best}
    chosen = yield from score.choose(made, work.study, work.site, valid, candidates)
    return _served(work, made, chosen, own.lr if own else None)


def _served(work: Work, made: Warm, chosen: Choice, lr: float | None) -> Result:
    """Return the result of a silo that serves this from now on; its folder holds it when this returns."""
    if ranks.first():
        folder, study = work.home / "served", work.study
        export.served(folder, made, study, chosen.adapter)
        served.note(folder, study.name, study.model.base, chosen.name, chosen.numbers)
    return Result({}, chosen.numbers, {"served": chosen.name, "alone_lr": lr})


def single(work: Work) -> Result:
    """Score one silo by itself."""
    made, strategy = basis.ready(work)
    return evaluate.told(asking(work, made, strategy), partial(evaluate.each, made))
