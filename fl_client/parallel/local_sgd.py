"""Local steps: each rank steps by its own share, and all meet every so many steps. For machines on slow links.

Local SGD (Stich 2019, arXiv 1805.09767) with an outer step on the mean of what changed, as in DiLoCo (Douillard et al.
2023, arXiv 2311.08105); ``lr=1, momentum=0`` is the plain mean. Two departures: the ranks also meet at the end of each
round, where the outer momentum ends with it; and at a meeting the moments of AdamW are averaged too, so that all ranks
hold the same and a step checkpoint is one file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_client.parallel.parallel import Parallel, Team
from strategies.adapter import Adapter
from strategies.outer.outer import fraction, positive

if TYPE_CHECKING:
    import torch

    from fl_client.config import Train
    from fl_client.gauge import Gauge
    from fl_client.model import Warm
    from fl_client.optimizer import Optimizer


def local_sgd(sync_every: int = 8, lr: float = 1.0, momentum: float = 0.0) -> Parallel:
    """Average the ranks every ``sync_every`` steps, with an outer Nesterov step of rate ``lr``."""
    if sync_every < 1:
        raise ValueError(f"{sync_every=} must be 1 or more steps")
    positive(lr=lr)
    fraction(momentum=momentum)

    def join(made: Warm, used: Optimizer, options: Train, gauge: Gauge) -> Team:
        from fl_client import ranks

        if ranks.world() == 1 and lr == 1 and momentum == 0:
            return Team(made.model)
        weight = len(ranks.share(np.arange(options.batch_size))) / options.batch_size
        outer = Outer(used, weight, lr, momentum)

        def meet() -> None:
            with gauge.talking():
                outer.average()
            outer.step()

        return Team(
            made.model,
            due=lambda done, last: last or done % sync_every == 0,
            meet=meet,
            state=outer.state,
            load=outer.load,
            apart=True,
        )

    return Parallel(join)


class Outer:
    """The outer optimizer: where all ranks last met, and its velocity. A rank weighs as its share of the batch."""

    def __init__(self, used: Optimizer, weight: float, lr: float, momentum: float) -> None:
        self._used, self._weight, self._lr, self._momentum = used, weight, lr, momentum
        self._anchor = [p.detach().clone() for p in used.parameters]
        self._velocity = [a.new_zeros(a.shape) for a in self._anchor]
        self._moved: list[torch.Tensor] = []

    def average(self) -> None:
        """Average over the ranks what changed since they last met, and the moments."""
        from fl_client import ranks

        pairs = zip(self._used.parameters, self._anchor, strict=True)
        self._moved = [self._weight * (p.detach() - a) for p, a in pairs]
        moments = self._used.averages()
        for moment in moments:
            moment.mul_(self._weight)
        ranks.add([*self._moved, *moments])

    def step(self) -> None:
        """Move everyone along the average, and meet there."""
        for p, a, v, d in zip(
            self._used.parameters, self._anchor, self._velocity, self._moved, strict=True
        ):
            v.mul_(self._momentum).add_(d)
            a.add_(d + self._momentum * v, alpha=self._lr)
            p.data.copy_(a)

    def state(self) -> Adapter:
        """Return the velocity by parameter name."""
        named = zip(self._used.names, self._velocity, strict=True)
        return {f"velocity/{name}": v.cpu().numpy().copy() for name, v in named}

    def load(self, state: Adapter) -> None:
        """Take up the velocity of a step checkpoint; the anchor is the adapter as it now is."""
        import torch

        for name, p, a, v in zip(
            self._used.names, self._used.parameters, self._anchor, self._velocity, strict=True
        ):
            a.copy_(p.detach())
            if f"velocity/{name}" in state:  # none where the round began with one rank
                v.copy_(torch.from_numpy(state[f"velocity/{name}"]))
