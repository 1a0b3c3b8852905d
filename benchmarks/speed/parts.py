"""What each part of local training gives: the same steps of a cohort with one part after the other switched off.

``python -m benchmarks.speed.parts STUDY [PART]`` is one process of one thread, in which parts take turns, so that what
else the machine does weighs on all alike; it prints the seconds of each. How memory that is free again is kept is fixed
as a process starts, so that is set against a process of its own. All is switched off from outside.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from benchmarks.figures import Figure, report
from benchmarks.speed.measure import Cost, often, ran
from benchmarks.speed.place import Place, place
from fl_client import bases, model, site
from fl_client.cohort import llama, loss, train
from fl_client.cohort.train import Member
from fl_client.config import Study
from fl_client.model import Warm
from fl_client.train import Plan
from fl_server import config
from fl_server.simulation import heap
from tasks import encode

Seconds = dict[str, dict[str, float]]  # by kind of numbers, and by the part that is switched off
DTYPES = ("float32", "bfloat16")
ALL, TOGETHER, KEEPS = "all parts", "several silos at once", "keeping memory that is free again"
ROOT = Path(__file__).parents[2]
NEAR = 1e-2  # nats a token by which a loss may be another: products are summed in another order
# Processes that can begin to train: as a simulation forks them, or each by itself.
READY = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from fl_server.simulation import pool
own = multiprocessing.get_context("spawn") if sys.argv[1] == "spawn" else pool.context()
with ProcessPoolExecutor(pool.cores(), own) as made:
    for started in [made.submit(pool._warm) for _ in range(pool.cores())]:
        started.result()
"""


@contextmanager
def _below(made: Warm) -> Iterator[None]:
    """Have the base's tokens ask for a gradient, as if something below the first adapter were trained."""
    table = made.model.get_input_embeddings()
    hook = table.register_forward_hook(lambda *passed: passed[-1].detach().requires_grad_())
    try:
        yield
    finally:
        hook.remove()


OFF: dict[str, Callable[[Warm], AbstractContextManager[object]]] = {
    ALL: lambda made: nullcontext(),
    TOGETHER: lambda made: nullcontext(),
    "a loss in pieces": lambda made: mock.patch.dict(loss.PIECE, cpu=1 << 40),
    "leaving out the gradient below the first adapter": _below,
    "decoder layers in one step": lambda made: mock.patch.object(llama, "known", lambda layer: False),
}  # fmt: skip


def figures(base: str, silos: int, times: int) -> list[Figure]:
    """Return how many times as long a step takes without each part, and what starts and packing give."""
    took: dict[tuple[str, str], list[float]] = {}
    with place(base, silos, 1, 2) as own:
        for _ in range(times):
            whole, bare = _run(own, heap.TUNABLES), _run(own, "", ALL)
            for dtype, seconds in whole.items():
                for part, without in (seconds | {KEEPS: bare[dtype][ALL]}).items():
                    took.setdefault((part, dtype), []).append(without / seconds[ALL])
        starts = [(_started(own, "fork"), _started(own, "spawn")) for _ in range(times)]
    label = f"{silos} silos, {base} base, one thread{often(times)}"
    steps = [
        report(f"{label}: a step without {part}, {dtype}", statistics.median(each), "times as long")
        for (part, dtype), each in took.items()
        if part != ALL
    ]
    cpu = statistics.median(peer.cpu_s / warm.cpu_s for warm, peer in starts)
    name = f"a process a core that can begin to train, not forked from a warm one{often(times)}"
    return [*steps, report(f"{name}: CPU", cpu, "times as much"), packing()]


def packing() -> Figure:
    """Return how many times as many blocks the built-in text takes where each holds one document."""
    study = Study()
    cut, length = partial(bases.tokens, bases.tokenizer(study.model.base)), study.train.length
    sites = [list(own.train) for own in site.simulated(study)]
    packed = sum(len(encode.pack(own, cut, 0, length).ids) for own in sites)
    apart = sum(len(encode.pack([one], cut, 0, length).ids) for own in sites for one in own)
    label = f"built-in text, a document a block of {length} tokens instead of packed: blocks"
    return report(label, apart / packed, "times as many")


def _started(own: Place, how: str) -> Cost:
    return ran([sys.executable, "-c", READY, how], own.own("ready"), _environment())


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def _run(own: Place, tunables: str, *only: str) -> Seconds:
    command = [sys.executable, "-m", "benchmarks.speed.parts", str(own.study()), *only]
    told = {"GLIBC_TUNABLES": tunables, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, env=_environment() | told, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr[-3000:])
    found: Seconds = json.loads(ended.stdout.splitlines()[-1])
    return found


def trained(file: Path, parts: list[str]) -> Seconds:
    """Return the seconds of the steps of a study's silos, each time the second of two runs."""
    study = config.read(file)
    made = model.warm(study.model, 0, "", study.seed)
    cut, options = partial(bases.tokens, bases.tokenizer(study.model.base)), study.train
    members = []
    for own in site.simulated(study):
        blocks = encode.pack(own.train, cut, made.end, options.length)
        plan = Plan(0, options.steps, options.steps, options.lr, own.name)
        members.append(Member({}, blocks, plan))
    found: Seconds = {}
    for dtype in DTYPES:
        options = options.model_copy(update={"dtype": dtype})
        losses: list[float] = []
        for part in parts:
            groups = [[one] for one in members] if part == TOGETHER else [members]
            with OFF[part](made):
                for _ in range(2):
                    began = time.perf_counter()
                    fitted = [x for group in groups for x in train.fit(made, group, options, False)]
                    found.setdefault(dtype, {})[part] = time.perf_counter() - began
            losses = losses or [one.loss for one in fitted]
            if any(abs(one.loss - known) > NEAR for one, known in zip(fitted, losses, strict=True)):
                raise SystemExit(f"without {part} silos learn something else")
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(trained(Path(sys.argv[1]), sys.argv[2:] or list(OFF))))
