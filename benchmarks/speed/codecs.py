"""A sparse, narrow update beside Flower's dense message: bytes on the wire, and the processor time of making it.

Both begin with the arrays of an adapter and end with the objects that Flower sends: what a codec made of them, or the
arrays as they are. Error feedback is part of ours: the residual of an earlier round goes in, the next comes out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from benchmarks.codecs import KEY, SMALLEST, indices
from benchmarks.figures import Figure, at_least, report
from benchmarks.speed.hub import NATURAL, layout
from fl_client import messages, spec
from strategies import adapter as algebra
from strategies.adapter import Adapter


def figures(times: int) -> list[Figure]:
    """Return how much smaller and sooner an update is sent than Flower's dense message."""
    shapes = layout(NATURAL)
    size = algebra.size(shapes)
    drawn = np.random.default_rng(7).laplace(0, 1e-3, (2, size)).astype(np.float32)
    update, codec = algebra.unflatten(drawn[0], shapes), spec.codec(SMALLEST)
    memory = codec.encode(drawn[1], codec.init(size), KEY)[1]

    def ours() -> int:
        wire, _ = codec.encode(algebra.flatten(update), memory, KEY)
        return sent(messages.pack(wire))

    def dense() -> int:
        return sent(record(update))

    small, large = ours(), dense()
    pairs = [(cpu_s(ours), cpu_s(dense), cpu_s(lambda: record(update))) for _ in range(times)]
    label = f"{SMALLEST} of {4e-6 * size:.1f} MB ({NATURAL})"
    return [
        at_least(f"{label}: smaller than Flower's dense message", large / small, "x", 250),
        at_least(f"{label}: sooner sent than Flower's dense message", median(pairs, 1), "x", 1.5),
        report(f"{label}: sooner encoded than Flower's ArrayRecord alone", median(pairs, 2), "x"),
        report(f"{label}: CPU", statistics.median(own for own, *_ in pairs) * 1e3, "ms"),
        *indices("0.01", np.abs(drawn[0]), 0.01),
    ]


def median(pairs: list[tuple[float, float, float]], of: int) -> float:
    """Return how many times as long the peer takes."""
    return statistics.median(row[of] / row[0] for row in pairs)


def record(update: Adapter) -> ArrayRecord:
    """Return the arrays as Flower's own record of them, which is where it makes bytes of them."""
    return ArrayRecord({name: Array(x) for name, x in update.items()})


def sent(made: ArrayRecord) -> int:
    """Return the bytes of all objects that Flower sends for a record, which it must make and name first."""
    objects = get_all_nested_objects(RecordDict({"arrays": made}))
    return sum(len(each.deflate()) for each in objects.values())


def cpu_s(work: Callable[[], object]) -> float:
    """Return the processor seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began
