"""The hub's aggregation of many large replies, from message to next adapter, beside Flower's FedAvg on the same arrays.

``python -m benchmarks.speed.hub ours|flower SILOS SHAPE SEED`` is one run in a process of its own, which prints what it
took. Ours is given replies one by one, each in a buffer of its own, as they come in; Flower's strategy is given all.
"""

from __future__ import annotations

import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from benchmarks.figures import Figure, at_least, at_most, report, true
from benchmarks.speed.layouts import NATURAL, SHAPES, layout
from benchmarks.speed.measure import often
from fl_client import messages, tensors
from fl_client.messages import Order
from fl_server import merge, replies, silos
from fl_server.grid import Polled
from fl_server.journal import State
from fl_server.silos import Silo
from fl_server.simulation.lot import identify
from strategies import adapter as algebra
from strategies.adapter import Adapter, Layout
from strategies.codecs.codec import chain
from strategies.codecs.float32 import float32
from strategies.combine import Parts
from strategies.fedavg import fedavg
from strategies.outer.mean import mean
from strategies.weights.uniform import uniform

ROUND, SEED = 1, 7


def figures(count: int, times: int) -> list[Figure]:
    """Return the CPU of both, the memory of both, and whether the order of arrival changes a byte."""
    found: list[Figure] = []
    for shape in SHAPES:
        runs = [
            (once("ours", count, shape, n), once("flower", count, shape, n)) for n in range(times)
        ]
        cpu = [(own["cpu_s"], peer["cpu_s"]) for own, peer in runs]
        if any(abs(own["norm"] / peer["norm"] - 1) > 1e-5 for own, peer in runs):
            raise SystemExit(f"ours and Flower's are different means: {runs}")
        megabytes = 4e-6 * algebra.size(layout(shape))
        label = f"hub: {count} replies of {megabytes:.1f} MB ({shape}){often(times)}"
        faster = statistics.median(peer / own for own, peer in cpu)
        name = f"{label}: less CPU than Flower's FedAvg"
        found += [
            at_least(name, faster, "x", 5) if shape == NATURAL else report(name, faster, "x"),
            report(f"{label}: CPU of a reply", statistics.median(o for o, _ in cpu) / count * 1e3, "ms"),
            report(f"{label}: CPU of a reply, Flower", statistics.median(p for _, p in cpu) / count * 1e3, "ms"),
        ]  # fmt: skip
        if shape == NATURAL:
            peaks = [max(run[k]["peak_bytes"] for run in runs) / 1e6 for k in (0, 1)]
            same = len({own["sha256"] for own, _ in runs}) == 1
            found += [
                at_most(f"{label}: peak memory above the start", peaks[0], "MB", 120),
                report(f"{label}: peak memory above the start, Flower", peaks[1], "MB"),
                true(f"{label}: any order of arrival gives the same bytes", same),
            ]  # fmt: skip
    return found


def once(which: str, count: int, shape: str, seed: int) -> dict[str, Any]:
    """Run one of the two in a process of its own and return what it took."""
    command = [sys.executable, "-m", "benchmarks.speed.hub", which, str(count), shape, str(seed)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(ended.stderr[-3000:])
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def ours(count: int, shapes: Layout, seed: int) -> dict[str, Any]:
    """Fold the replies in as they come, in an order of their own."""
    start = algebra.unflatten(np.zeros(algebra.size(shapes), np.float32), shapes)
    parts = Parts(fedavg("everyone", "everyone"), uniform(), mean(), chain([float32()]))
    state = State(0, {"everyone": start}, {"everyone": parts.outer.init(start)}, {"everyone": {}})
    names = {"everyone": sorted(shapes)}
    order = random.Random(seed).sample(range(count), count)
    warm = merge.add(merge.empty(parts, state), parts, names, "warm", 1.0, start)
    merge.close(warm, parts, state)
    del warm
    held = _Held([(k, float(1 + k / count)) for k in order], _template(shapes))
    asked = [(Silo(k, f"s{k}", {}, ""), messages.order(Order())) for k in order]
    before, began = _reset(), time.process_time()
    merged = merge.empty(parts, state)
    for silo, heard in silos.ask(held, "train", asked):
        update = replies.check(silo, heard, shapes, ROUND, parts.codec, SEED)
        merged = merge.add(merged, parts, names, silo.name, (silo.node + 1) / count, update)
        del heard, update
    after, _ = merge.close(merged, parts, state)
    cpu = time.process_time() - began - held.spent_s
    peak = _memory("VmHWM") - before
    made = after.adapter["everyone"]
    found = {"cpu_s": cpu, "peak_bytes": peak, "norm": algebra.norm(made)}
    return found | {"sha256": algebra.sha256(made)}


class _Held(Polled):
    """A grid on which each reply is made when it is asked for; how long that takes is kept."""

    def __init__(self, factors: list[tuple[int, float]], template: algebra.Array) -> None:
        self._factors, self._template, self._room = dict(factors), template, template.copy()
        self.spent_s = 0.0
        self.now = time.monotonic
        self.get_node_ids = lambda: list(self._factors)
        self.push_messages = lambda sent: [str(m.metadata.dst_node_id) for m in sent]
        self.pull_messages = self._made

    def _made(self, keys: Iterable[str]) -> list[Message]:
        began = time.process_time()
        made = [self._reply(int(key)) for key in keys]
        self.spent_s += time.process_time() - began
        return made

    def _reply(self, k: int) -> Message:
        """Return the reply of a silo as it arrives: its update as one flat array, in a buffer of its own."""
        np.multiply(self._template, np.float32(self._factors[k]), out=self._room)
        made = messages.answer(_asked(k), {}, {"silo": f"s{k}", "round": ROUND})
        blob = b"".join(tensors.pieces({"values": self._room}))
        array = Array(dtype="uint8", shape=(len(blob),), stype=messages.BLOB, data=blob)
        made.content["update"] = ArrayRecord({"blob": array})
        return made


def flower(count: int, shapes: Layout) -> dict[str, Any]:
    """Give Flower's FedAvg all replies, as it wants them."""
    template = algebra.unflatten(_template(shapes), shapes)
    strategy = FedAvg()
    before = _reset()
    replies = [
        _flowers(k, {n: x * np.float32(1 + k / count) for n, x in template.items()})
        for k in range(count)
    ]
    strategy.aggregate_train(ROUND, replies[:2])
    gc.collect()
    began = time.process_time()
    arrays, _ = strategy.aggregate_train(ROUND, replies)
    cpu = time.process_time() - began
    peak = _memory("VmHWM") - before
    norm = algebra.norm({name: x.numpy() for name, x in (arrays or {}).items()})
    return {"cpu_s": cpu, "peak_bytes": peak, "norm": norm}


def _template(shapes: Layout) -> algebra.Array:
    return np.random.default_rng(SEED).normal(0, 1e-3, algebra.size(shapes)).astype(np.float32)


def _asked(k: int) -> Message:
    return Message(RecordDict(), dst_node_id=k + 1, message_type="train")


def _flowers(k: int, update: Adapter) -> Message:
    arrays = ArrayRecord({name: Array(x) for name, x in update.items()})
    content = {"arrays": arrays, "metrics": MetricRecord({"num-examples": k + 1})}
    return Message(RecordDict(content), reply_to=_asked(k))


def _reset() -> int:
    """Forget the peak of this process so far; return the bytes that it holds now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(which: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(which))


if __name__ == "__main__":
    identify()
    asked, number, of, drawn = sys.argv[1], int(sys.argv[2]), layout(sys.argv[3]), int(sys.argv[4])
    print(json.dumps(ours(number, of, drawn) if asked == "ours" else flower(number, of)))
