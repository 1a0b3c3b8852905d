"""FlexLoRA: average the products, not the factors (Bai et al. 2024, arXiv 2402.11505).

The mean of the silos' products has up to K times their rank; its best approximation of the adapter's own rank is
sent back. Departs from the paper in three ways: the singular values come from small QR factors, so no m x n matrix
is formed; the pair is turned towards the round's start, so that an optimizer's moments stay meaningful; and what is
returned is the step from the start, so that the hub's optimizer still applies. Token rows are averaged as they are.

Silos may have several ranks: each receives the best approximation of its own rank, the first columns and rows of the
pair in its balanced gauge, and the product of what it sends back counts as any other's.
"""

from __future__ import annotations

from strategies import accumulate, widths
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.fedavg import fedavg
from strategies.product import nearest, norm, pairs, stack, tensors, truncate
from strategies.strategy import Memory, Strategy, Weighted


def flexlora(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average the products of the LoRA pairs, cut back to their rank; token rows as FedAvg does."""
    return fedavg(lora=lora, rows=rows, private=private)._replace(
        aggregate=_aggregate, reduction="gather", domain="product", mixed_ranks=True, cut=_cut
    )


def _cut(adapter: Adapter, rank: int) -> Adapter:
    # A product of zero has no directions: the seeded A is what can still learn.
    nearest = {
        module: truncate(pair, rank)
        for module, pair in pairs(adapter).items()
        if rank < len(pair.a) and norm(pair)
    }
    return widths.cut(adapter, rank) | tensors(nearest)


def _aggregate(updates: list[Weighted], start: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
    updates = sorted(updates, key=lambda one: one.silo)
    shapes = algebra.layout(start)
    sent = ((one.weight, widths.pad(one.update, shapes)) for one in updates)
    mean = accumulate.mean_of(sent, shapes)
    total = sum(one.weight for one in updates)
    starts = {rank: _cut(start, rank) for rank in {widths.rank(one.update) for one in updates}}
    ends = [
        (one.weight / total, pairs(algebra.add(starts[widths.rank(one.update)], one.update)))
        for one in updates
    ]
    merged = {}
    for module, pair in pairs(start).items():
        merged[module] = nearest(stack((weight, end[module]) for weight, end in ends), pair)
    new = tensors(merged)
    return mean | algebra.subtract(new, algebra.pick(start, new)), memory
