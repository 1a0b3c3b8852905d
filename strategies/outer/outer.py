"""What an outer optimizer is, and the parts that several share.

The mean of the updates is a pseudo-gradient with its sign turned (Reddi et al. 2021, arXiv 2003.00295). Memory
is a flat dict of arrays, so that a journal can keep it: ``momentum/NAME``, ``second/NAME``, ``count/NAME``. Steps are
counted by tensor: some rest in some rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from strategies.adapter import Adapter, Array

Memory = dict[str, Array]


class Outer(NamedTuple):
    """``init(adapter)`` makes the memory; ``step(adapter, delta, memory)`` returns both anew.

    One that ``delays`` takes a whole step over several commits; one that ``rescales`` divides by the size of steps; one
    that is ``heavy`` moves on along its momentum with every step.
    """

    init: Callable[[Adapter], Memory]
    step: Callable[[Adapter, Adapter, Memory], tuple[Adapter, Memory]]
    delays: bool = False
    rescales: bool = False
    heavy: bool = False


def remember(*kinds: str) -> Callable[[Adapter], Memory]:
    """Return an ``init`` that keeps a zero array of each kind for each tensor, and a count of its steps."""

    def init(adapter: Adapter) -> Memory:
        kept = {f"{kind}/{name}": np.zeros_like(x) for kind in kinds for name, x in adapter.items()}
        return kept | {f"count/{name}": np.zeros(1, np.int64) for name in adapter}

    return init


def counted(memory: Memory, name: str) -> Array:
    """Return how many steps a tensor has taken with this one; a study may have begun with one count for all."""
    before = memory.get(f"count/{name}", memory.get("count", np.zeros(1, np.int64)))
    return np.asarray(before + 1)


def positive(**values: float) -> None:
    """Raise ``ValueError`` for the first of these that is not above zero and finite."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}={value} must be above 0 and finite")


def fraction(**values: float) -> None:
    """Raise ``ValueError`` for the first of these that is not in [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}={value} must be at least 0 and below 1")


def heavy_ball(lr: float, momentum: float, look_ahead: bool) -> Outer:
    """Return SGD with momentum in PyTorch's form: v = mu v + d; step by v, or by d + mu v."""
    positive(lr=lr)
    fraction(momentum=momentum)

    def step(adapter: Adapter, delta: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
        moved, kept = {}, {f"count/{name}": counted(memory, name) for name in adapter}
        for name, x in adapter.items():
            velocity = momentum * memory[f"momentum/{name}"] + delta[name]
            kept[f"momentum/{name}"] = velocity
            moved[name] = x + lr * (delta[name] + momentum * velocity if look_ahead else velocity)
        return moved, kept

    return Outer(remember("momentum"), step, heavy=momentum > 0)


def adaptive(
    second: Callable[[Array, Array], Array],
    lr: float,
    beta1: float,
    tau: float,
    rate: Callable[[int], float] = lambda count: 1.0,
) -> Outer:
    """Return the adaptive family: x + lr rate(t) m / (sqrt(v) + tau), v by the rule ``second(v, d * d)``."""
    positive(lr=lr, tau=tau)
    fraction(beta1=beta1)

    def step(adapter: Adapter, delta: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
        moved, kept = {}, {f"count/{name}": counted(memory, name) for name in adapter}
        for name, x in adapter.items():
            scale = lr * rate(int(kept[f"count/{name}"][0]))
            first = beta1 * memory[f"momentum/{name}"] + (1 - beta1) * delta[name]
            square = second(memory[f"second/{name}"], np.square(delta[name]))
            kept[f"momentum/{name}"], kept[f"second/{name}"] = first, square
            moved[name] = (x + scale * first / (np.sqrt(square) + tau)).astype(x.dtype)
        return moved, kept

    return Outer(remember("momentum", "second"), step, rescales=True)
