"""The safety rail: what a silo reaches by itself, with as many steps as the study gives it.

Each learning rate is tried; validation text is read once a round's worth of steps, the best point is kept (early
stopping), and a rate is given up after two checks without progress. The result stays in the silo.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.numpy import save

from fl_client import evaluate, model, train
from fl_client.config import Study, digest
from fl_client.memory import write_whole
from fl_client.model import Warm
from strategies.adapter import Adapter
from tasks.encode import Blocks

LOG = logging.getLogger("bhasha_fl.alone")
PATIENCE = 2
FILE = "adapter.safetensors"


class Best(NamedTuple):
    """The best point of a local-only run: its adapter, and where it was found."""

    adapter: Adapter
    valid: float
    lr: float
    step: int


def key(study: Study, private_rank: int) -> str:
    """Return what a local-only result depends on: everything but who trains with whom and how it travels."""
    others = dict.fromkeys(("name", "weights", "outer", "codec", "schedule", "strategy"), "")
    train = study.train.model_copy(update={"lr": 0.0})  # alone has rates of its own
    plain = study.model_copy(update=others | {"train": train})
    return f"{digest(plain)}+{private_rank}"


def fit(made: Warm, blocks: Blocks, valid: dict[str, Blocks], study: Study, silo: str) -> Best:
    """Train one silo alone at each rate and return the best point by validation bits per byte."""
    best = Best({}, float("inf"), 0.0, 0)
    for lr in study.alone.lrs():
        best = min(best, _fit(made, blocks, valid, study, silo, lr), key=lambda point: point.valid)
    return best


def _fit(
    made: Warm, blocks: Blocks, valid: dict[str, Blocks], study: Study, silo: str, lr: float
) -> Best:
    model.write(made, {})
    used = train.optimizer(made, {})
    total = study.rounds * study.train.steps
    best = Best({}, float("inf"), lr, 0)
    for first in range(0, total, study.train.steps):
        plan = train.Plan(first, study.train.steps, total, lr, f"{study.seed}:{silo}")
        try:
            train.fit(made, blocks, study.train, plan, used)
        except FloatingPointError as error:
            LOG.warning("%s alone: %s; this rate is given up", silo, error)
            break
        scored = evaluate.bits_per_byte(evaluate.bits(made, valid))
        if scored < best.valid:
            best = Best(model.read(made), scored, lr, first + study.train.steps)
        elif first + study.train.steps - best.step >= PATIENCE * study.train.steps:
            break
    _skip(total - (first + study.train.steps))
    return best


def _skip(steps: int) -> None:
    LOG.debug("stopped early", extra={"event": {"kind": "step", "steps": steps}})


def keep(home: Path, key: str, best: Best) -> None:
    """Write a result into the silo's folder: one file, with the key that says which study it belongs to."""
    note = {"key": key, "valid": best.valid, "lr": best.lr, "step": best.step}
    write_whole(home / "alone" / FILE, save(best.adapter, {"note": json.dumps(note)}))


def recall(home: Path, key: str) -> tuple[Adapter, dict[str, Any]]:
    """Return the adapter and its facts if a result of this very study is there, else nothing."""
    path = home / "alone" / FILE
    if not path.is_file():
        return {}, {}
    with safe_open(path, "numpy") as held:
        facts: dict[str, Any] = json.loads((held.metadata() or {}).get("note", "{}"))
        if facts.get("key") != key:
            return {}, {}
        return {name: held.get_tensor(name) for name in held.keys()}, facts  # noqa: SIM118
