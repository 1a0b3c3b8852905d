"""FedEx-LoRA: average the factors, and merge what their mean leaves out (Singhal et al. 2024, arXiv 2410.09432).

The product of the mean factors is not the mean of the products; the rest, the sum of w_k (B_k - B)(A_k - A), goes into
the base, and the factors train on. Departs from the paper in three ways: silos are weighted; the rest is kept as
factors, of rank (K - 1) r, never as a matrix; and it is guarded. Where silos differ the rest comes out alike in every
round and the base drifts without bound: in a small linear run of ours, with 8 unlike silos and 120 rounds, it ended at
four times the excess loss of plain averaging. So a layer's rest is left out where it is larger than ``kappa`` times
the step of its product; at 0.5 the same run stayed below plain averaging, at 1 it did not.
"""

from __future__ import annotations

from strategies import accumulate
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.fedavg import fedavg
from strategies.merged import beside, grown
from strategies.product import Factors, change, norm, pairs, stack, truncate
from strategies.strategy import Memory, Strategy, Weighted

# The weight of each silo, all together 1, and where its pair ended.
Ends = list[tuple[float, Factors]]


def fedex(kappa: float = 0.5, lora: str = "everyone", rows: str = "language") -> Strategy:
    """Average LoRA and token rows, and merge the rest of the products where it is small against their step.

    Args:
        kappa: how large the rest may be, as a share of the step; 0 is plain averaging, ``inf`` the method unguarded.
        lora: scope of both LoRA factors.
        rows: scope of the trained token rows.
    """
    if not kappa >= 0:
        raise ValueError(f"{kappa=} is no share of a step; give 0 or more, inf for no guard")

    def aggregate(
        updates: list[Weighted], start: Adapter, memory: Memory
    ) -> tuple[Adapter, Memory]:
        updates = sorted(updates, key=lambda one: one.silo)
        sent = ((one.weight, one.update) for one in updates)
        mean = accumulate.mean_of(sent, algebra.layout(start))
        total = sum(one.weight for one in updates)
        ends = [(one.weight / total, pairs(algebra.add(start, one.update))) for one in updates]
        rests = {}
        for module, before in pairs(start).items():
            own = [(weight, end[module]) for weight, end in ends]
            if norm(rest := _rest(own)) <= kappa * _step(before, own):
                rests[module] = _narrow(rest, (len(own) - 1) * len(before.a))
        return mean, grown(memory, rests)

    return fedavg(lora=lora, rows=rows)._replace(
        aggregate=aggregate,
        reduction="gather",
        mutates_base=True,
        broadcast=beside,
        growth=lambda rank, silos: rank * (silos - 1),
    )


def _rest(ends: Ends) -> Factors:
    """Return the mean of the products less the product of the means, without ever taking one from the other."""
    b, a = (sum(weight * end[half] for weight, end in ends) for half in (0, 1))
    return stack((weight, Factors(end.b - b, end.a - a)) for weight, end in ends)


def _narrow(rest: Factors, rank: int) -> Factors:
    """Return the rest at the rank that it has: deviations from a mean sum to zero, so a silo alone leaves none."""
    return truncate(rest, max(1, min(rank, len(rest.b), rest.a.shape[1])))


def _step(before: Factors, ends: Ends) -> float:
    return norm(stack((weight, change(before, end)) for weight, end in ends))
