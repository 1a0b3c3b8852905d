"""Delayed Nesterov: the hub's momentum where updates come one by one (Liu et al. 2024, arXiv 2401.09135, algorithm 3).

Momentum that moves at every update of an asynchronous study runs away: it was made for the mean over all silos. Here
each commit moves the adapter at once, by its share of that mean (``schedules.buffered``, the paper's 1/N); momentum
changes, and moves it, after every ``every`` of them, by their sum. Over these it is one step of ``nesterov``.

Departs from the paper: a commit may be the mean of several updates, and c, how early momentum is spent, is 0.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter
from strategies.outer.outer import Memory, Outer, counted, fraction, positive, remember


def delayed_nesterov(lr: float = 0.7, momentum: float = 0.9, every: int = 2) -> Outer:
    """Move by each commit at once, and along the momentum after every ``every`` commits."""
    positive(lr=lr)
    fraction(momentum=momentum)
    if every < 1:
        raise ValueError(f"{every=} must be 1 commit or more; about as many as hear of all silos")

    def step(adapter: Adapter, delta: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
        moved, kept = {}, {f"count/{name}": counted(memory, name) for name in adapter}
        for name, x in adapter.items():
            velocity = memory[f"momentum/{name}"]
            waiting = memory[f"waiting/{name}"] + delta[name]
            moved[name] = x + lr * delta[name]
            if int(kept[f"count/{name}"][0]) % every == 0:
                velocity, waiting = momentum * velocity + waiting, np.zeros_like(waiting)
                moved[name] += lr * momentum * velocity
            kept |= {f"momentum/{name}": velocity, f"waiting/{name}": waiting}
        return moved, kept

    kinds, at_once = ("momentum", "waiting"), every == 1
    return Outer(remember(*kinds), step, delays=not at_once, heavy=at_once and momentum > 0)
