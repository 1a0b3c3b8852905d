"""The figures of deltas: how much of an adapter travels to a silo that holds the one before, and what that costs.

``python -m benchmarks.deltas``: an adapter of 20 MB, LoRA of rank 16 on SmolLM2-135M, after three rounds of ``fedavg``
by five silos through the hub's own merge. Updates are drawn from a normal distribution, the same in every tensor, and
not learned: each silo then chooses other numbers, and as many change as ever can, which is the worst case of ``topk``.
Times are CPU seconds of one core, with files and hashes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.figures import Figure, at_most, report, true, write
from benchmarks.speed.layouts import NATURAL, layout
from fl_client import deltas, parcels, spec
from fl_client.parcels import Delta, Parcel
from fl_server import merge
from fl_server.journal import State
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.codecs.codec import Key
from strategies.combine import Parts
from strategies.fedavg import fedavg
from strategies.outer.mean import mean
from strategies.weights.uniform import uniform

SILOS, ROUNDS, REPEATS, SEED = 5, 3, 5, 7
EVERYONE, SPARSE = "everyone", "topk(0.01)"
TRIED = (("float32()", 1e-3), ("float32()", 1e-4), (SPARSE, 1e-3))  # codec, size of a silo's steps


def main() -> None:
    """Measure every codec and write benchmarks/results/deltas.json."""
    figures = [figure for codec, step in TRIED for figure in after(codec, step)]
    write("deltas", figures, "python -m benchmarks.deltas")


def after(codec: str, step: float) -> list[Figure]:
    """Return what the delta of the last round's adapter is, beside that adapter, and what it costs."""
    before, new = trained(codec, step)
    label = f"{codec}, {SILOS} silos, drawn normal steps of {step:g}"
    with tempfile.TemporaryDirectory() as name:
        found = measured(Path(name), before, new)
    share = 100 * found.delta.parcel.bytes / found.parcel.bytes
    size = f"{label}: the delta of an adapter of {found.parcel.bytes / 1e6:.0f} MB"
    return [
        at_most(size, share, "%", 6) if codec == SPARSE else report(size, share, "%"),
        report(f"{label}: it is offered", "yes" if found.offered else "no", ""),
        report(f"{label}: to find out whether it pays", found.tried_s, "s"),
        report(f"{label}: to make it", found.made_s, "s"),
        report(f"{label}: to make the adapter of it", found.rebuilt_s, "s"),
        true(f"{label}: the very bytes", found.same),
    ]


def trained(codec: str, step: float) -> tuple[Adapter, Adapter]:
    """Return the adapters before and after the last round."""
    shapes = layout(NATURAL)
    parts = Parts(fedavg(EVERYONE, EVERYONE), uniform(), mean(), spec.codec(codec))
    start = {name: algebra.initial(name, shape, SEED) for name, shape in shapes.items()}
    state = State(0, {EVERYONE: start}, {EVERYONE: parts.outer.init(start)}, {EVERYONE: {}})
    residuals = [parts.codec.init(algebra.size(shapes)) for _ in range(SILOS)]
    draw, before = np.random.default_rng(SEED), start
    for number in range(1, ROUNDS + 1):
        arrived, before = merge.empty(parts, state), state.adapter[EVERYONE]
        for silo in range(SILOS):
            update = draw.normal(0, step, algebra.size(shapes)).astype(np.float32)
            key = Key(SEED, number, f"s{silo}")
            wire, residuals[silo] = parts.codec.encode(update, residuals[silo], key)
            sent = algebra.unflatten(parts.codec.decode(wire, update.size, key), shapes)
            names = {EVERYONE: sorted(shapes)}
            arrived = merge.add(arrived, parts, names, key.silo, 1.0, sent)
        state, _ = merge.close(arrived, parts, state)
    return before, state.adapter[EVERYONE]


class Measured(NamedTuple):
    """A delta, whether a hub would offer it, and the seconds that it takes."""

    parcel: Parcel
    delta: Delta
    offered: bool
    same: bool
    tried_s: float
    made_s: float
    rebuilt_s: float


def measured(folder: Path, before: Adapter, new: Adapter) -> Measured:
    """Return what the delta between two adapters is and costs, whether it pays or not."""
    start, parcel = (parcels.keep(folder, each) for each in (before, new))
    files = [parcels.path(folder, each) for each in (start, parcel)]
    old, content = (file.read_bytes() for file in files)
    tried_s, offered = timed(lambda: deltas.pays(old, content))
    made_s, made = timed(lambda: parcels.put(folder, deltas.made(old, content)))
    delta = Delta(made, start)

    def rebuilt() -> None:
        files[1].unlink(missing_ok=True)
        deltas.rebuild(folder, parcel, delta)

    rebuilt_s, _ = timed(rebuilt)
    same = files[1].read_bytes() == content
    return Measured(parcel, delta, offered, same, tried_s, made_s, rebuilt_s)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the median CPU seconds of runs of ``work``, and what the last returned."""
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        result = work()
        seconds.append(time.process_time() - began)
    return median(seconds), result


if __name__ == "__main__":
    main()
