"""The work of a silo, done where Torch is: each function takes a job and returns arrays and numbers."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch

from fl_client import alone, bases, evaluate, export, model, spec, train
from fl_client.config import Study
from fl_client.messages import Fault
from fl_client.model import Warm
from fl_client.site import by_language
from fl_client.workers import Job, Result
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.strategy import Strategy
from tasks import encode

LOG = logging.getLogger("bhasha_fl.silo")


def count(job: Job) -> Result:
    """Return the silo's counts by language and the hash of its base."""
    threads(job.study)
    base = job.study.model.base
    tokenizer = bases.tokenizer(base)
    counts = {}
    for lang, spoken in by_language(job.site.train).items():
        texts = [e.text for e in spoken]
        tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"]))
        size = sum(len(text.encode()) for text in texts)
        counts[lang] = [len(texts), size, sum(map(len, texts)), tokens]
    return Result({}, {}, {"silo": job.site.name, "languages": counts, "base": bases.sha256(base)})


def initial(job: Job) -> Result:
    """Return the seeded adapter that every silo starts from, its shared tensors only."""
    made, strategy = _ready(job)
    shared = algebra.pick(made.start, [n for n in made.start if strategy.scope(n) != "silo"])
    return Result(shared, {}, {"peft": made.peft_config})


def fit(job: Job) -> Result:
    """Train one round; return ``delta/NAME`` of what is sent, ``private/NAME`` and the optimizer's moments."""
    made, strategy = _ready(job)
    start = _load(made, strategy, job)
    options, number = job.study.train, job.order.round
    blocks = encode.pack(job.site.train, made.tokenize, made.end, options.length)
    total = job.study.rounds * options.steps
    plan = train.Plan(
        (number - 1) * options.steps,
        options.steps,
        total,
        options.lr,
        f"{job.study.seed}:{job.site.name}",
    )
    used = train.optimizer(made, job.memory if options.keep_optimizer else {})
    hooks = train.Hooks(made, strategy.local, number, algebra.under("local/", job.memory))
    try:
        loss = train.fit(made, blocks, options, plan, used, hooks)
    except FloatingPointError as error:
        raise Fault("not_finite", str(error)) from error
    trained = model.read(made)
    sent = [n for n in trained if strategy.sent(n, number)]
    kept = [n for n in trained if strategy.scope(n) == "silo"]
    delta = algebra.subtract(algebra.pick(trained, sent), algebra.pick(start, sent))
    arrays = {f"delta/{n}": x for n, x in delta.items()}
    arrays |= {f"private/{n}": trained[n] for n in kept}
    arrays |= train.moments(used) if options.keep_optimizer else {}
    LOG.info("%s round %d: loss %.3f nats a token", job.site.name, number, loss)
    return Result(arrays, {"loss": loss}, {})


def rail(job: Job) -> Result:
    """Train alone, once for a study, and keep the result in the silo; return the rate and step that won."""
    made, strategy = _ready(job)
    key = alone.key(job.study, strategy.private_rank)
    held, facts = alone.recall(job.home, key)
    if not held:
        blocks = encode.pack(job.site.train, made.tokenize, made.end, job.study.train.length)
        valid = evaluate.blocks(made, job.site.valid, job.study.train.length)
        best = alone.fit(made, blocks, valid, job.study, job.site.name)
        if not best.adapter:
            raise Fault("not_finite", "training alone diverged at every rate of alone.rates")
        alone.keep(job.home, key, best)
        facts = {"valid": best.valid, "lr": best.lr, "step": best.step}
        LOG.info("%s alone: %.3f bits per byte at lr %g", job.site.name, best.valid, best.lr)
    return Result({}, {name: float(facts[name]) for name in ("valid", "lr", "step")}, {})


def score(job: Job) -> Result:
    """Return validation bits by language of the adapter received; at the end also the test of all candidates."""
    made, strategy = _ready(job)
    together = _load(made, strategy, job)
    valid = evaluate.blocks(made, job.site.valid, job.study.train.length)
    if not job.order.final:
        return Result({}, _metrics("valid", evaluate.bits(made, valid)), {})
    alone_adapter, facts = alone.recall(job.home, alone.key(job.study, strategy.private_rank))
    candidates = {"base": {}, "together": together} | ({"alone": alone_adapter} if facts else {})
    metrics: dict[str, float] = {}
    reached: dict[str, float] = {}
    for name, adapter in candidates.items():
        model.write(made, adapter)  # an empty one is the base itself: B zero, the rows its own
        reached[name] = evaluate.bits_per_byte(evaluate.bits(made, valid))
        metrics |= _metrics(name, _test(made, job))
    served = choose(reached, job.study.alone.margin)
    export.served(job.home / "served", made, job.study, candidates[served])
    return Result({}, metrics, {"served": served, "alone_lr": facts.get("lr")})


def choose(reached: dict[str, float], margin: float) -> str:
    """Return which candidate a silo serves: the best on validation; together must beat alone by ``margin``."""
    scored = {name: value for name, value in reached.items() if math.isfinite(value)}
    ranked = [name for name in ("together", "alone", "base") if name in scored]
    best = min(ranked, key=lambda name: scored[name], default="base")
    if best == "together" and scored[best] * (1 + margin) > scored.get("alone", math.inf):
        return "alone"
    return best


def _test(made: Warm, job: Job) -> evaluate.Scores:
    scores = evaluate.bits(made, evaluate.blocks(made, job.site.test, job.study.train.length))
    task = spec.build(job.study.task, "task")
    for lang, own in evaluate.answers(made, task, job.site.test, job.study).items():
        scores[lang] |= own
    return scores


def _metrics(what: str, scores: evaluate.Scores) -> dict[str, float]:
    return {f"{what}/{lang}/{n}": v for lang, own in scores.items() for n, v in own.items()}


def _ready(job: Job) -> tuple[Warm, Strategy]:
    threads(job.study)
    strategy: Strategy = spec.build(job.study.strategy, "strategy")
    made = model.warm(job.study.model, strategy.private_rank, job.order.scripts, job.study.seed)
    return made, strategy


def _load(made: Warm, strategy: Strategy, job: Job) -> Adapter:
    shared = algebra.pick(made.start, [n for n in made.start if strategy.scope(n) != "silo"])
    if job.order.start_sha256 != algebra.sha256(shared):
        raise Fault("basis_differs")
    wanted = {n for n in shared if strategy.changed(n, job.order.after + 1)}
    expected = algebra.layout(algebra.pick(shared, wanted))
    if algebra.layout(job.received) != expected or not _sound(job.received):
        raise Fault("malformed", "the hub sent other tensors than this round needs")
    adapter = made.start | job.received | algebra.under("private/", job.memory)
    model.write(made, adapter)
    return adapter


def _sound(adapter: Adapter) -> bool:
    return all(x.dtype == np.float32 and bool(np.isfinite(x).all()) for x in adapter.values())


def threads(study: Study) -> None:
    """Use as many threads as the study says; 0 leaves the choice to Torch."""
    if study.train.threads:
        torch.set_num_threads(study.train.threads)
