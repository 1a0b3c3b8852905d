"""The safety rail: what a silo reaches by itself, with as many steps as the study gives it.

Each learning rate is tried; validation text is read once a round's worth of steps, the best point is kept (early
stopping), and a rate is given up after two checks without progress. It is AdamW even where the study trains with SGD:
what a method must beat is what a silo can really reach. The result stays in the silo.

When the study has ended the same is done once more from what was trained together: local adaptation (Yu et al. 2020,
arXiv 2002.04758), at rates that follow from the one that was best alone. Where the study says so it is done a third
time, from the middle of both, which teach: see ``fl_client.tries``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fl_client import checkpoint, digest, evaluate, hooks, model, optimizer, ranks, sealed, train
from fl_client.checkpoint import Keeper
from fl_client.config import Alone, Study
from fl_client.memory import write_whole
from fl_client.model import Warm
from fl_client.tries import Begins
from strategies import adapter as algebra
from strategies.adapter import Adapter, part
from strategies.strategy import Local
from tasks.encode import Blocks

LOG = logging.getLogger("bhasha_fl.alone")
PATIENCE = 2
FILE = "adapter.safetensors"
# begun from the base, from what all trained, from the middle of both
Kind = Literal["alone", "adapted", "distilled"]
PLAIN = Local(trainable=lambda name, _: part(name) != "core")  # a core stays the identity


class Best(NamedTuple):
    """The best point of a local-only run: its adapter, and where it was found."""

    adapter: Adapter
    valid: float
    lr: float
    step: int


def key(study: Study, private_rank: int, begun: Adapter | None = None) -> str:
    """Return what a local-only result depends on: all but who trains with whom and how that travels."""
    others = dict.fromkeys(
        ("name", "weights", "outer", "guard", "codec", "schedule", "strategy"), ""
    )
    # alone has rates of its own, and AdamW whatever the study trains with
    train = study.train.model_copy(update={"lr": 0.0, "optimizer": "adamw"})
    dealt = study.simulation.model_copy(update={"ranks": ""})  # its own stands in model.rank
    after = {"margin": 0.0, "errors": 0.0, "blend": "", "adapt": False}
    after |= {"adapt_rates": "", "distil": Alone().distil}  # younger than keys that silos hold
    rail = study.alone.model_copy(update=after)
    plain = study.model_copy(update=others | {"train": train, "simulation": dealt, "alone": rail})
    own = f"{digest.of(plain)}+{private_rank}"
    return own if begun is None else f"{own}+{algebra.sha256(begun)}+{study.alone.adapt_rates}"


class Stand(NamedTuple):
    """Where training alone stands: which rate, from which step, the best of the rates before, the best of this one."""

    rate: int
    first: int
    best: Best
    own: Best


NONE = Best({}, float("inf"), 0.0, 0)


def fit(
    made: Warm,
    blocks: Blocks,
    valid: dict[str, Blocks],
    study: Study,
    silo: str,
    keeper: Keeper | None = None,
    begins: Begins | None = None,
) -> Best:
    """Train one silo by itself at each rate and return the best point by validation bits per byte.

    With a ``keeper`` it goes on where it stood when its ranks were asked to leave or died; raises ``Left``.
    """
    stand, begins = _stood(keeper), begins or Begins(study.alone.lrs())
    for number in range(stand.rate, len(begins.lrs)):
        stand = stand._replace(rate=number)
        own = _fit(made, blocks, valid, study, silo, stand, keeper, begins)
        best = min(stand.best, own, key=lambda point: point.valid)
        stand = Stand(number, 0, best, NONE)
    return stand.best


def _fit(
    made: Warm,
    blocks: Blocks,
    valid: dict[str, Blocks],
    study: Study,
    silo: str,
    stand: Stand,
    keeper: Keeper | None,
    begins: Begins,
) -> Best:
    model.write(made, begins.adapter)
    used = optimizer.start(made, {}, "adamw", study.train.rows_lr)
    around = hooks.Hooks(made, PLAIN, 0, {})
    steps, lr = study.train.steps, begins.lrs[stand.rate]
    total = study.rounds * steps
    best, lesson = stand.own._replace(lr=lr), begins.lesson(stand.rate)
    for first in range(stand.first, total, steps):
        plan = train.Plan(first, steps, total, lr, f"{study.seed}:{silo}", 0, lesson)
        held = _keeper(keeper, stand._replace(first=first, own=best))
        try:
            train.fit(made, blocks, study.train, plan, used, around, held)
        except FloatingPointError as error:
            LOG.warning("%s alone: %s; this rate is given up", silo, error)
            break
        scored = ranks.told(
            lambda: evaluate.bits_per_byte(evaluate.bits(made, valid)), everyone=made.sharded
        )
        if scored < best.valid:
            best = Best(_plain(made) | begins.merged(), scored, lr, first + steps)
        if over(best, first + steps, steps):
            break
    skip(total - (first + steps))
    return best


def _plain(made: Warm) -> Adapter:
    """Return the adapter as any study of these shapes holds it: of cores that stayed the identity, none."""
    return {name: x for name, x in model.read(made).items() if part(name) != "core"}


def _keeper(keeper: Keeper | None, stand: Stand) -> Keeper | None:
    """Return the keeper of one stretch of steps: its checkpoint carries where the whole run stands."""
    if keeper is None:
        return None
    carried: Adapter = {}
    note: dict[str, Any] = {"rate": stand.rate, "first": stand.first}
    for what, point in (("best", stand.best), ("own", stand.own)):
        carried |= {f"{what}/{name}": x for name, x in point.adapter.items()}
        note[what] = point[1:]
    key = f"{keeper.key}:{stand.rate}:{stand.first}"
    return keeper._replace(key=key, carried=carried, note=note, ends=False)


def _stood(keeper: Keeper | None) -> Stand:
    held = checkpoint.recall(keeper._replace(key=f"{keeper.key}:"), whole=False) if keeper else None
    if held is None:
        return Stand(0, 0, NONE, NONE)
    points = {
        what: Best(algebra.under(f"{what}/", held.carried), *held.note[what])
        for what in ("best", "own")
    }
    return Stand(held.note["rate"], held.note["first"], **points)


def over(best: Best, reached: int, steps: int) -> bool:
    """Return whether a rate is given up at a step: its best point lies ``PATIENCE`` rounds of ``steps`` back."""
    return reached - best.step >= PATIENCE * steps


def skip(steps: int) -> None:
    """Say that steps to come are not needed."""
    LOG.debug("stopped early", extra={"event": {"kind": "step", "steps": steps}})


def keep(home: Path, key: str, best: Best, what: Kind = "alone") -> None:
    """Write a result into the silo's folder: one file, with the key that says which study it belongs to."""
    note = {"key": key, "valid": best.valid, "lr": best.lr, "step": best.step}
    held = {f"adapter/{name}": x for name, x in best.adapter.items()}
    held["note"] = np.frombuffer(json.dumps(note).encode(), np.uint8)
    write_whole(home / what / FILE, sealed.seal(held))


def recall(home: Path, key: str, what: Kind = "alone") -> Best | None:
    """Return a result if one of this very study is there and whole."""
    path = home / what / FILE
    if not path.is_file():
        return None
    try:
        held = sealed.open_(path.read_bytes())
        note: dict[str, Any] = json.loads(held["note"].tobytes())
        found = Best(algebra.under("adapter/", held), note["valid"], note["lr"], note["step"])
        return found if note["key"] == key else None
    except (OSError, ValueError, KeyError) as error:
        LOG.warning("%s cannot be read and counts as no result: %s", path, error)
        return None
