"""AdamW or plain SGD over an adapter's parameters, the moments as plain arrays. SGD has none."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import torch

from fl_client.model import Warm
from strategies.adapter import Adapter, part

AVERAGES = ("exp_avg", "exp_avg_sq")


class Optimizer(NamedTuple):
    """Torch's optimizer over the adapter's parameters, by name."""

    names: list[str]
    inner: torch.optim.Optimizer

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters, in the order of their names."""
        return list(self.inner.param_groups[0]["params"])

    def averages(self) -> list[torch.Tensor]:
        """Return the running averages themselves, of all parameters that have been trained."""
        held = (self.inner.state.get(p, {}) for p in self.parameters)
        return [state[name] for state in held for name in AVERAGES if name in state]


def start(made: Warm, state: Adapter, kind: str = "adamw") -> Optimizer:
    """Return the optimizer with the moments of ``state`` (``optimizer/MOMENT/NAME``), or fresh where it is empty."""
    names = sorted(made.parameters)
    trained = [made.parameters[n] for n in names]
    if kind == "sgd":
        return Optimizer(names, torch.optim.SGD(trained, lr=0.0))  # the rate is set at each step
    used = Optimizer(names, torch.optim.AdamW(trained, weight_decay=0.0, fused=True))
    if state:
        take_up(used, state)
    return used


def take_up(used: Optimizer, state: Adapter) -> None:
    """Set the moments to those of ``state``; a parameter that has none there starts fresh."""
    moments = {
        i: {
            moment: torch.from_numpy(np.array(state[f"optimizer/{moment}/{name}"]))
            for moment in ("step", *AVERAGES)
        }
        for i, name in enumerate(used.names)
        if f"optimizer/step/{name}" in state
    }
    groups = used.inner.state_dict()["param_groups"]
    used.inner.load_state_dict({"state": moments, "param_groups": groups})


def remembered(memory: Adapter, restarts: Collection[str]) -> Adapter:
    """Return a silo's memory without the moments of parts that restart: they belong to another basis."""
    return {
        name: x
        for name, x in memory.items()
        if not (name.startswith("optimizer/") and part(name) in restarts)
    }


def moments(used: Optimizer) -> Adapter:
    """Return the optimizer's moments as arrays, named as ``take_up`` reads them."""
    state = used.inner.state_dict()["state"]
    return {
        f"optimizer/{moment}/{used.names[i]}": value.detach().cpu().numpy().copy()
        for i, held in state.items()
        for moment, value in held.items()
    }
