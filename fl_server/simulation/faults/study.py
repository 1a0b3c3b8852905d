"""The small studies that are tried: silos, an adapter of a few numbers, and training that is drawn, not learned."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fl_client.config import Study, from_flat
from fl_client.messages import Order
from fl_server import cohort as cohorts
from fl_server import config
from fl_server.run import Run
from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies.adapter import Adapter, Array
from strategies.combine import Parts
from strategies.weights.weight import Counts

NAMES = ("anna", "bela", "chandra", "devi")
CODECS = ("bfloat16()", "topk(0.5) | int8()", "ef21() | topk(0.5)")
ONE_PASS, TWO_PASSES = (
    f"{name}(lora='everyone', rows='everyone')" for name in ("fedavg", "sketch")
)
SHAPES = {"l.lora_A.weight": (2, 3), "l.lora_B.weight": (3, 2)}
STEPS, DEADLINE_S = 4, 900.0
COUNTS, BASE = {"as": Counts(1, 100, 100, 30)}, "base"  # what each silo says of itself
ALL, HALF = (f"sync(quorum={quorum}, deadline_s={DEADLINE_S})" for quorum in (1.0, 0.5))
BUFFERED = f"buffered(size=2, max_staleness=2, deadline_s={DEADLINE_S})"


class Shape(NamedTuple):
    """What tells one study from another."""

    silos: int
    rounds: int
    codec: str
    schedule: str
    strategy: str = ONE_PASS

    @property
    def names(self) -> tuple[str, ...]:
        """The silos' names."""
        return NAMES[: self.silos]


@cache
def study(shape: Shape) -> Study:
    """Return a study of this shape; only its last round is scored."""
    return from_flat(
        {
            "name": "tried",
            "strategy": shape.strategy,
            "codec": shape.codec,
            "schedule": shape.schedule,
            "rounds": shape.rounds,
            "alone.enabled": False,
            "evaluate.every": 100,
            "train.steps": STEPS,
        }
    )


@cache
def parts(shape: Shape) -> Parts:
    """Return the parts of a study of this shape."""
    return config.build(study(shape))[0]


@cache
def run(shape: Shape) -> Run:
    """Return a run of this study that has neither a grid nor a folder yet; nodes are numbered from 1."""
    own = study(shape)
    present = [Silo(node, name, COUNTS, BASE) for node, name in enumerate(shape.names, 1)]
    start = {name: algebra.initial(name, size, own.seed) for name, size in SHAPES.items()}
    cohort = cohorts.gather(present, parts(shape).strategy, sorted(start))
    base = Order(start_sha256=algebra.sha256(start))
    schedule = config.build(own)[1]
    nothing: Any = None
    return Run(nothing, own, parts(shape), schedule, nothing, cohort, {}, start, base, {}, {})


def step(silo: str, number: int, at: int, before: Adapter) -> Adapter:
    """Return an adapter after one more step of a silo's training in a round."""
    seed = [zlib.crc32(silo.encode()), number, at]
    draw = np.random.default_rng(seed)
    return {n: before[n] + _drawn(draw, before[n].shape) for n in sorted(before)}


def _drawn(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return draw.normal(0, 0.1, shape).astype(np.float32)
