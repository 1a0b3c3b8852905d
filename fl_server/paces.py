"""How long a study will take, before anyone has spent time on it: estimates from the arithmetic of a step, and from
what each silo said of itself.
"""

from __future__ import annotations

from typing import NamedTuple

from fl_client.config import Study
from fl_client.shapes import Shape
from fl_server import config
from fl_server.forecast import Trip
from strategies.strategy import Strategy

FLOOR_S = 1.5  # a round of nothing, as measured on loopback
GPU_SPEED = 4e13  # arithmetic a second that training reaches on a middling GPU; silos do not say which they have
CPU_SPEED = 2e10  # the same of one core, as measured on small models
UPDATE = 4  # arithmetic a token and weight: forward, and backward to the adapter
SCORE = 2  # forward alone
TAUGHT = 5 / 3  # of the time of a step: two teachers each go forward once more, a third of it


class Power(NamedTuple):
    """What a silo trains with; ``tokens_s`` is what it measured in its last round on this base, 0 if it never did."""

    cpus: int = 0
    gpus: int = 0
    tokens_s: float = 0.0
    uplink_bytes_s: float = 0.0


class Pace(NamedTuple):
    """Seconds of one silo, by what it does in them: in each round, and once alone and adapting, at the end."""

    train_s: float
    score_s: float
    line_s: float
    alone_s: float
    adapt_s: float = 0.0

    @property
    def round_s(self) -> float:
        """Return the seconds of one round."""
        return FLOOR_S + self.train_s + self.score_s + self.line_s


def of(
    study: Study, strategy: Strategy, shape: Shape, power: Power, trip: Trip, languages: int
) -> Pace | None:
    """Return the time of one silo, None where it has not said what it trains with.

    Training by itself may stop early; these are the seconds if it does not.
    """
    speed = tokens_s(shape, power)
    if not speed:
        return None
    options = study.train
    train_s = options.steps * options.batch_size * options.length / speed
    # Of a language that the base knows badly, a token is little more than a character.
    characters = study.evaluate.characters * max(languages, 1) * bool(study.evaluate.every)
    score_s = characters / (speed * UPDATE / SCORE)
    line_s = (trip.down + trip.up) / power.uplink_bytes_s if power.uplink_bytes_s else 0.0
    a_try = study.rounds * (train_s + score_s)
    rates = len(study.alone.lrs()) if study.alone.enabled else 0
    return Pace(train_s, score_s, line_s, rates * a_try, tries(study, strategy) * a_try)


def tries(study: Study, strategy: Strategy) -> float:
    """Return as many times a try alone as adapting to its own text takes a silo, 0 where nobody adapts."""
    if not config.adapts(study, strategy):
        return 0.0
    # Nothing is distilled where a part of what was trained is in the base.
    taught = [] if strategy.mutates_base else study.alone.taught()
    return len(study.alone.adapted()) + TAUGHT * len(taught)


def tokens_s(shape: Shape, power: Power) -> float:
    """Return the tokens a second that a silo trains on: measured, else by its GPUs or cores; 0 if it said nothing."""
    arithmetic = power.gpus * GPU_SPEED or power.cpus * CPU_SPEED
    return power.tokens_s or arithmetic / (UPDATE * shape.worked)
