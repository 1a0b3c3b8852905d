"""The figures of the codecs: how much shorter an update travels, how fast it is encoded, what an index costs.

``python -m benchmarks.codecs``, on 5 million numbers drawn from Laplace's distribution, 20 MB as float32. Speed is
that of one core, in CPU time. The lots of a round are drawn anew for each encoding and found again by decoding, as at a
hub that has decoded another silo's reply before.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save

from benchmarks.figures import Figure, at_least, at_most, report, write
from fl_client import spec
from strategies import gaps
from strategies.adapter import Array
from strategies.codecs.codec import Key
from strategies.codecs.topk import largest

SIZE, REPEATS = 5_000_000, 5
KEY = Key(seed=7, round=REPEATS, silo="clinic")
SMALLEST = "topk(0.01) | int4()"
CHAINS = (
    "bfloat16()",
    "int8()",
    "int4()",
    "int2()",
    "qsgd(bits=8)",
    "qsgd(bits=2)",
    "topk(0.05) | int8()",
    SMALLEST,
    "topk(0.01) | int2()",
    "randk(0.05) | int4()",
)


def main() -> None:
    """Measure every chain and write benchmarks/results/codecs.json."""
    delta = np.random.default_rng(7).laplace(0, 1e-3, SIZE).astype(np.float32)
    figures = [figure for text in CHAINS for figure in chain(text, delta)]
    for density in (0.01, 0.05):
        figures += indices(f"{density}", np.abs(delta), density)
    # In a real adapter some tensors move more than others: their numbers are chosen more often.
    uneven = np.abs(delta) * np.repeat(2.0 ** np.arange(-2, 3), SIZE // 5).astype(np.float32)
    figures += indices("0.01, tensors of five scales", uneven, 0.01)[:1]
    write("codecs", figures, "python -m benchmarks.codecs")


def chain(text: str, delta: Array) -> list[Figure]:
    """Return how much smaller than dense float32 a chain sends a vector, and how fast, its error feedback counted."""
    codec = spec.codec(text)
    memory = codec.init(delta.size)
    encode_s, (wire, _) = timed(lambda k: codec.encode(delta, memory, KEY._replace(round=k)))
    decode_s, _ = timed(lambda _: codec.decode(wire, delta.size, KEY))
    smaller, label = delta.nbytes / len(save(wire)), f"{text}: smaller than dense float32"
    return [
        at_least(label, smaller, "x", 250) if text == SMALLEST else report(label, smaller, "x"),
        report(f"{text}: encoded", delta.nbytes / encode_s / 1e6, "MB/s of a core"),
        report(f"{text}: decoded", delta.nbytes / decode_s / 1e6, "MB/s of a core"),
    ]


def indices(label: str, sizes: Array, density: float) -> list[Figure]:
    """Return what an index costs, and how far that is above the entropy of a choice by lot."""
    count = math.ceil(density * sizes.size)
    code = gaps.encode(largest(sizes, count), sizes.size)
    bits = 8 * code.size / count
    above = 100 * (bits / entropy(count, sizes.size) - 1)
    return [
        report(f"an index of the largest {label}", bits, "bits"),
        at_most(f"an index of the largest {label}: above the entropy", above, "%", 1),
    ]


def entropy(count: int, size: int) -> float:
    """Return the bits an index that tell which ``count`` of ``size`` were chosen, all choices being equally likely."""
    ways = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    return ways / math.log(2) / count


def timed(work: Callable[[int], Any]) -> tuple[float, Any]:
    """Return the median CPU seconds of runs of ``work``, each given its number, and what the last returned."""
    seconds = []
    for number in range(1, REPEATS + 1):
        began = time.process_time()
        result = work(number)
        seconds.append(time.process_time() - began)
    return statistics.median(seconds), result


if __name__ == "__main__":
    main()
