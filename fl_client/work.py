"""The work of a silo, done where Torch is: each function takes a job and returns arrays and numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import torch

from fl_client import (
    bases,
    basis,
    chat,
    checkpoint,
    lora,
    memory,
    scoring,
    site,
    survey,
    training,
    update,
)
from fl_client import rail as rails
from fl_client.cohort import rail as cohort_rail
from fl_client.cohort import rounds as cohort_rounds
from fl_client.cohort import scores as cohort_scores
from fl_client.corpus import CorpusError
from fl_client.messages import Fault
from fl_client.workers import Job, Kind, Result, Work
from strategies import adapter as algebra
from strategies import widths

LOG = logging.getLogger("bhasha_fl.silo")


def opened(job: Job) -> Work:
    """Return a job at its silo; raises ``Fault`` where its text cannot be used, else ``ConfigError``."""
    try:
        own = chat.framed(site.own(job.study, job.place))
    except CorpusError as error:
        raise Fault("text_missing", str(error)) from error
    # A real silo's threads are its own affair (silo.toml); 0 leaves the choice to Torch.
    if own.study.train.threads and not job.place.silo:
        torch.set_num_threads(own.study.train.threads)
    held = memory.agreed(own.home, job.order.turn, job.order.lost)
    return Work(
        own.study,
        own.site,
        own.home,
        held,
        job.order,
        job.received,
        own.checkpoint_s,
        job.study.model.rank,
        own.round_bytes,
    )


def count(work: Work) -> Result:
    """Return the silo's counts by language and the hash of its base."""
    base = work.study.model.base
    tokenizer = bases.tokenizer(base)
    counts = {}
    for lang, spoken in site.by_language(work.site.train).items():
        texts = [e.learned for e in spoken]
        tokens = sum(map(len, bases.tokens(tokenizer, texts)))
        size = sum(len(text.encode()) for text in texts)
        counts[lang] = [len(texts), size, sum(map(len, texts)), tokens]
    facts = {"silo": work.site.name, "languages": counts, "base": bases.sha256(base)}
    own = work.study.model.rank
    return Result({}, {}, facts | ({"rank": own} if own < work.rank else {}))


def initial(work: Work) -> Result:
    """Return the seeded adapter of the study's rank that every silo starts from, its shared tensors only."""
    made, strategy = basis.ready(work)
    shared = algebra.pick(made.start, [n for n in made.start if strategy.scope(n) != "silo"])
    wide = widths.of(algebra.layout(shared), work.rank)
    pairs = {n for n in shared if algebra.part(n) != "rows"}
    shared |= {n: algebra.initial(n, wide[n], work.study.seed) for n in pairs}
    told, tokens = lora.said(made.peft_config, shared)
    return Result(shared | tokens, {}, {"peft": told})


def fit(work: Work) -> Result:
    """Train one round; return the encoded update. What must be remembered is on disk before it is returned."""
    key = checkpoint.round_key(work.study, work.order.turn, work.received)
    keeper = checkpoint.keeper(work.home, "round", key, work.checkpoint_s)
    return training.single(training.begun(work), keeper)


def together(kind: Kind, jobs: list[Job]) -> list[Result | Exception]:
    """Do the same work of several simulated silos, at once where they can; return each result, or why it failed."""
    return TOGETHER[kind]([partial(opened, job) for job in jobs])


def rail(work: Work) -> Result:
    """Train by itself, once for a study, and keep the result in the silo; return the rate and step that won."""
    return rails.result(work)


TOGETHER: dict[Kind, Callable[[list[Callable[[], Work]]], list[Result | Exception]]] = {
    "fit": cohort_rounds.fits,
    "rail": cohort_rail.fits,
    "score": cohort_scores.told,
}
KINDS: dict[str, Callable[[Work], Result]] = {
    "count": count,
    "initial": initial,
    "gradient": survey.gradient,
    "fit": fit,
    "second": update.second,
    "rail": rail,
    "score": scoring.single,
}
