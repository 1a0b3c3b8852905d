"""What two ranks do in the tests: ``python team.py FOLDER NAME...`` runs each case and writes what came of it there.

Started once a rank, with the environment that torch elastic gives; rank 0 writes. With one rank it is the same
training alone, so that a test can compare.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from fl_client import checkpoint, hooks, model, optimizer, ranks, site, survey, train
from fl_client.config import Model, Study, Train
from fl_client.tries import Lesson
from strategies import scope
from strategies import survey as surveys
from strategies.adapter import Adapter, layout, part
from strategies.fedprox import fedprox
from strategies.fedsb import fedsb
from tasks import encode

PLAN = train.Plan(3, 6, 12, 0.01, "7:silo")
EXACT = Train(steps=6, batch_size=7, length=32, dtype="float32")


def warm(options: Train, rank: int = 4, cored: bool = False) -> tuple[model.Warm, encode.Blocks]:
    """Return the tiny base, sharded where the way of training together asks for it, and a silo's text."""
    own = site.simulated(Study())[0]
    scripts = scope.scripts(e.lang for e in own.train)
    made = model.warm(Model(rank=rank), 0, scripts, 7, options.parallel, cored)
    return made, encode.pack(own.train, made.tokenize, made.end, options.length)


def pull(made: model.Warm, anchor: Adapter) -> hooks.Hooks:
    """Return a strategy that pulls towards an anchor; the model stays as it is."""
    now = model.read(made) | made.merged.tensors
    model.write(made, anchor)
    around = hooks.Hooks(made, fedprox(mu=0.1).local, 1, {})
    model.write(made, now)
    return around


def merged(made: model.Warm, rank: int = 3, seed: int = 0) -> Adapter:
    """Return what earlier rounds have merged into the base, of a size that shows."""
    draw = np.random.default_rng(seed)
    shapes = {
        n: {"A": (rank, x.shape[1]), "B": (len(x), rank)}.get(part(n))
        for n, x in sorted(made.start.items())
    }
    return {
        n.removesuffix("weight") + "merged": draw.normal(0, 0.05, shape).astype(np.float32)
        for n, shape in shapes.items()
        if shape
    }


def run(
    options: Train,
    keeper: checkpoint.Keeper | None = None,
    slices: bool = False,
    taught: bool = False,
):
    """Train six steps from the start of a fresh silo, with a strategy that corrects gradients."""
    made, blocks = warm(options)
    model.write(made, merged(made) if slices else {})
    plan = PLAN._replace(lesson=lesson(made)) if taught else PLAN
    used = optimizer.start(made, {})
    fitted = train.fit(made, blocks, options, plan, used, pull(made, made.start), keeper)
    return made, used, fitted


def lesson(made: model.Warm) -> Lesson:
    """Return a lesson of two teachers that differ from the start so that it shows."""
    draw = np.random.default_rng(1)
    teachers = [
        {n: (x + draw.normal(0, 0.02, x.shape)).astype(np.float32) for n, x in made.start.items()}
        for _ in range(2)
    ]
    return Lesson(0.7, tuple(teachers))


def cored(options: Train):
    """Survey the first gradients as a silo does, then train the cores from what is found in them alone."""
    made, blocks = warm(options, cored=True)
    model.write(made, {})
    found, shapes = fedsb().survey, layout(made.start)
    names = surveys.sketched(found, shapes)
    sketches = survey.sketches(made, blocks, options, names, shapes, 7, "7:silo")
    model.write(made, found.found(sketches, made.start, "7"))
    used, around = optimizer.start(made, {}), hooks.Hooks(made, fedsb().local, 1, {})
    fitted = train.fit(made, blocks, options, PLAN, used, around)
    return made, used, fitted, {f"sketch/{n}": x for n, x in sketches.items()}


def case(name: str, folder: Path) -> None:
    """Run one case and write ``NAME.safetensors`` and ``NAME.json``, and each rank's adapter hash."""
    options = EXACT.model_copy(update=CASES[name])
    made, used, fitted, sketches = (
        cored(options)
        if name in CORED
        else (*run(options, slices=name in MERGED, taught=name in TAUGHT), {})
    )
    adapter, moments = model.read(made), optimizer.moments(used)
    same = [
        float(sum(x.sum(dtype="f8") for x in held.values()))
        for held in (adapter, moments, sketches)
    ]
    facts = {"losses": fitted.losses, "loss": fitted.loss, "speed": fitted.speed}
    facts["sums"] = ranks.gathered(same)
    if ranks.first():
        save_file(adapter | moments | sketches, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(facts))


CASES = {
    "ddp": {},
    "micro": {"micro_batch": 2},
    "fsdp": {"parallel": "fsdp()"},
    "fsdp-micro": {"parallel": "fsdp()", "micro_batch": 3, "checkpointing": True},
    "local": {"parallel": "local_sgd(sync_every=4)"},
    "few": {"batch_size": 1},
    "fsdp-merged": {"parallel": "fsdp()", "checkpointing": True},
    "ddp-taught": {"micro_batch": 2},
    "fsdp-taught": {"parallel": "fsdp()", "checkpointing": True},
    "few-taught": {"batch_size": 1},
    "ddp-core": {"micro_batch": 2},
    "fsdp-core": {"parallel": "fsdp()", "checkpointing": True},
}
MERGED, CORED = {"fsdp-merged"}, {"ddp-core", "fsdp-core"}
TAUGHT = {"ddp-taught", "fsdp-taught", "few-taught"}


def main() -> None:
    """Join, run the cases named on the command line, part."""
    torch.set_num_threads(1)
    ranks.join()
    for name in sys.argv[2:]:
        case(name, Path(sys.argv[1]))
    ranks.part()


if __name__ == "__main__":
    main()
