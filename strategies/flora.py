"""FLoRA: stack the silos' products, merge them into the base, begin anew (Wang et al. 2024, arXiv 2409.05976).

The stack [w_1 B_1 | w_2 B_2 | ...] [A_1; A_2; ...] is the weighted mean of the products exactly, whatever each silo did
to its factors, and every round begins at B = 0 with a fresh A. Departs from the paper in two ways: the base on disk
stays as it is, the stack is kept beside it and compressed without loss once it is wider than the matrix; and the fresh
A is a function of seed and round, so it never travels. What goes down still grows by a rank for each silo and round.

Silos may have several ranks: what each of them trained is stacked whole, and all merge the same stack.
"""

from __future__ import annotations

from strategies import accumulate, widths
from strategies import adapter as algebra
from strategies.adapter import Adapter, part
from strategies.fedavg import fedavg
from strategies.merged import beside, grown
from strategies.product import pairs, stack
from strategies.strategy import Memory, Strategy, Weighted


def flora(lora: str = "everyone", rows: str = "language") -> Strategy:
    """Merge the stacked products of the LoRA pairs and restart them; token rows as FedAvg does."""
    return fedavg(lora=lora, rows=rows)._replace(
        aggregate=_aggregate,
        reduction="gather",
        domain="product",
        mutates_base=True,
        broadcast=beside,
        growth=lambda rank, silos: rank * silos,
        restarts=("A", "B"),
        mixed_ranks=True,
    )


def _aggregate(updates: list[Weighted], start: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
    updates = sorted(updates, key=lambda one: one.silo)
    shapes = algebra.layout(start)
    sent = ((one.weight, widths.pad(one.update, shapes)) for one in updates)
    mean = accumulate.mean_of(sent, shapes)
    total = sum(one.weight for one in updates)
    starts = {
        rank: widths.cut(start, rank) for rank in {widths.rank(one.update) for one in updates}
    }
    ends = [
        (one.weight / total, pairs(algebra.add(starts[widths.rank(one.update)], one.update)))
        for one in updates
    ]
    stacks = {
        module: stack((weight, end[module]) for weight, end in ends) for module in pairs(start)
    }
    still = {name: x * 0 for name, x in mean.items() if part(name) in ("A", "B")}
    return mean | still, grown(memory, stacks)
