"""The most that a study may ask of a silo: what its policy says, and of the rest more than any study needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fl_client import spec
from fl_client.config import Alone, ConfigError, Section, Study

Most = Annotated[int, Field(ge=0)]
TRIES = (
    16  # numbers in a list of what a silo tries by itself: for each of most it trains as long again
)
SCORED = {"characters": 10_000_000, "answers": 100_000, "answer_tokens": 32_768}


class Limits(Section):
    """What a study may ask for."""

    tasks: tuple[str, ...]
    max_rank: Most
    max_rounds: Most
    max_steps: Most
    max_batch_size: Most
    max_length: Most


def exceeded(study: Study, most: Limits) -> str:
    """Return '' where a study asks for no more than these, else the code of ``refusals.REFUSALS`` that says of what."""
    asked = {
        "rank_too_high": (study.model.rank + _private(study), most.max_rank),
        "rounds_too_many": (study.rounds, most.max_rounds),
        "steps_too_many": (study.train.steps, most.max_steps),
        "batch_too_large": (study.train.batch_size, most.max_batch_size),
        "length_too_long": (study.train.length, most.max_length),
        "tries_too_many": (_tries(study.alone), TRIES),
    }
    if any(getattr(study.evaluate, name) > limit for name, limit in SCORED.items()):
        return "scores_too_many"
    return next((code for code, (wanted, limit) in asked.items() if wanted > limit), "")


def _private(study: Study) -> int:
    try:
        return int(spec.build(study.strategy, "strategy").private_rank)
    except ConfigError:  # nothing can be trained by it
        return 0


def _tries(alone: Alone) -> int:
    """Return how many numbers the longest list of what a silo tries by itself has."""
    lists = (alone.rates, alone.adapt_rates, alone.distil, alone.blend)
    return 1 + max(listed.count(",") for listed in lists)
