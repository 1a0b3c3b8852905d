"""A sparse, narrow update beside Flower's dense message: bytes on the wire, and the processor time of making it.

Both begin with the arrays of an adapter, and each is measured twice: encoded alone, to the record that Flower is given
(what a codec made of the arrays, or the arrays as they are), and encoded and named, to the objects that Flower sends
for it, each hashed once. Error feedback is part of ours: the residual of an earlier round goes in, the next comes out.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    no_object_id_recompute,
)

from benchmarks.codecs import KEY, SMALLEST, indices
from benchmarks.figures import Figure, at_least, report
from benchmarks.speed.layouts import NATURAL, layout
from benchmarks.speed.measure import often
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

    def encoded() -> ArrayRecord:
        wire, _ = codec.encode(algebra.flatten(update), memory, KEY)
        return messages.pack(wire)

    def dense() -> ArrayRecord:
        return record(update)

    times_smaller = sent(dense()) / sent(encoded())
    label = f"{SMALLEST} of {4e-6 * size:.1f} MB ({NATURAL}){often(times)}"
    return [
        at_least(f"{label}: smaller than Flower's dense message", times_smaller, "x", 250),
        *sooner(f"{label}, encoded and named as it is sent", lambda: sent(encoded()), lambda: sent(dense()), times),
        *sooner(f"{label}, encoded alone", encoded, dense, times),
        *indices("0.01", np.abs(drawn[0]), 0.01),
    ]  # fmt: skip


def sooner(
    label: str, ours: Callable[[], object], peers: Callable[[], object], times: int
) -> list[Figure]:
    """Return how many times less processor time ours takes than Flower's dense way, in turn, and what both take."""
    pairs = [(cpu_s(ours), cpu_s(peers)) for _ in range(times)]
    faster = statistics.median(peer / own for own, peer in pairs)
    return [
        at_least(f"{label}: sooner than Flower's dense arrays", faster, "x", 1.5),
        report(f"{label}: CPU", statistics.median(own for own, _ in pairs) * 1e3, "ms"),
        report(f"{label}: CPU, Flower", statistics.median(peer for _, peer in pairs) * 1e3, "ms"),
    ]


def record(update: Adapter) -> ArrayRecord:
    """Return the arrays as Flower's own record of them, which is where it makes bytes of them."""
    return ArrayRecord({name: Array(x) for name, x in update.items()})


def sent(made: ArrayRecord) -> int:
    """Return the bytes of all objects that Flower sends for a record, which it must make and name first."""
    # So Flower's SuperNode, ClientApp and grid send: without it every parent would hash its children once more.
    with no_object_id_recompute():
        objects = get_all_nested_objects(RecordDict({"arrays": made}))
        return sum(len(each.deflate()) for each in objects.values())


def cpu_s(work: Callable[[], object]) -> float:
    """Return the processor seconds of one call."""
    began = time.process_time()
    work()
    return time.process_time() - began
