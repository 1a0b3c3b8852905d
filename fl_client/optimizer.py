"""AdamW or plain SGD over an adapter's parameters, the moments as plain arrays. SGD has none."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch

from fl_client.model import Warm
from strategies.adapter import Adapter, part

AVERAGES = ("exp_avg", "exp_avg_sq")
SHARE = "share"
Group = dict[str, Any]


class Optimizer(NamedTuple):
    """Torch's optimizer over the adapter's parameters, by name."""

    names: list[str]
    inner: torch.optim.Optimizer

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        """The parameters, in the order of their names."""
        return parameters(self.inner)

    def step(self, rate: float) -> None:
        """Take a step at this learning rate."""
        step(self.inner, rate)

    def averages(self) -> list[torch.Tensor]:
        """Return the running averages themselves, of all parameters that have been trained."""
        held = (self.inner.state.get(p, {}) for p in self.parameters)
        return [state[name] for state in held for name in AVERAGES if name in state]


def start(made: Warm, state: Adapter, kind: str = "adamw", rows_lr: float = 1.0) -> Optimizer:
    """Return the optimizer with the moments of ``state`` (``optimizer/MOMENT/NAME``), or fresh where it is empty.

    ``rows_lr`` times the rate of a step is that of token rows.
    """
    names = sorted(made.parameters)
    trained = grouped([(name, made.parameters[name]) for name in names], rows_lr)
    if kind == "sgd":
        return Optimizer(names, torch.optim.SGD(trained, lr=0.0))  # the rate is set at each step
    used = Optimizer(names, torch.optim.AdamW(trained, weight_decay=0.0, fused=True))
    if state:
        take_up(used, state)
    return used


def grouped(named: Iterable[tuple[str, torch.nn.Parameter]], rows_lr: float) -> list[Group]:
    """Return parameters as Torch's groups, each with the ``share`` of a step's rate that is its own."""
    found = []
    for rows, own in groupby(named, key=lambda pair: part(pair[0]) == "rows"):
        found.append({"params": [p for _, p in own], SHARE: rows_lr if rows else 1.0})
    return found


def parameters(inner: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """Return the parameters of all groups, in the order in which they were given."""
    return [p for group in inner.param_groups for p in group["params"]]


def step(inner: torch.optim.Optimizer, rate: float) -> None:
    """Take a step at this learning rate, of which each group has its share."""
    for group in inner.param_groups:
        group["lr"] = rate * group[SHARE]
    inner.step()


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
