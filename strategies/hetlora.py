"""HetLoRA: silos of several ranks, padded with zeros and averaged by the size of their products (Cho et al. 2024,
arXiv 2401.06432).

Each silo trains the first rows and columns of the study's pair, as many as its rank; the hub pads what comes back and
weighs it by the Frobenius norm of the silo's products, times the study's weight. Departs from the paper in that the
regulariser by which silos prune their own rank is left out: it stays as it is. What is returned is the step from the
start, so that the hub's optimizer still applies. Token rows are averaged with the study's weights. A pair may grow past
what the accumulator takes, round by round, so ends are averaged in float64, silos in order of their names.
"""

from __future__ import annotations

from math import hypot

import numpy as np

from strategies import accumulate, widths
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.fedavg import fedavg
from strategies.product import norm, pairs, tensors
from strategies.strategy import Memory, Strategy, Weighted


def hetlora(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average LoRA pairs of several ranks by the size of their products; token rows as FedAvg does."""
    return fedavg(lora=lora, rows=rows, private=private)._replace(
        aggregate=_aggregate, reduction="gather", mixed_ranks=True
    )


def _aggregate(updates: list[Weighted], start: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
    shapes, ends, sizes = algebra.layout(start), [], []
    sent = ((one.weight, widths.pad(one.update, shapes)) for one in updates)
    mean = accumulate.mean_of(sent, shapes)
    for one in sorted(updates, key=lambda one: one.silo):
        end = algebra.add(widths.cut(start, widths.rank(one.update)), one.update)
        ends.append(widths.pad(end, shapes))
        sizes.append(one.weight * hypot(*map(norm, pairs(end).values())))
    return mean | _paired(start, ends, sizes), memory


def _paired(start: Adapter, ends: list[Adapter], sizes: list[float]) -> Adapter:
    """Return the step of the LoRA pairs; none where no silo has a product yet."""
    old = algebra.pick(start, tensors(pairs(start)))
    if not any(sizes):
        return algebra.zeros(old)
    shares = [size / sum(sizes) for size in sizes]
    return {
        name: sum(
            (share * (end[name] - np.float64(x)) for share, end in zip(shares, ends, strict=True)),
            np.zeros(x.shape),
        ).astype(np.float32)
        for name, x in old.items()
    }
