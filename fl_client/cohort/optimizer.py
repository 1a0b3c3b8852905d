"""The optimizers of a cohort: for each silo one parameter, its row of the buffer.

A row is cut where token rows begin and end, whose rate may be another, and where neighbours in it have been trained for
a different number of steps, as after a part of the adapter that began anew: AdamW corrects its averages by that number.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch

from fl_client import optimizer
from fl_client.cohort.buffers import Buffers
from fl_client.optimizer import AVERAGES
from strategies.adapter import Adapter, part


class Optimizer(NamedTuple):
    """One silo's optimizer, the runs of its row (start, stop), and its averages, as long as the row."""

    inner: torch.optim.Optimizer
    runs: list[slice]
    averages: dict[str, torch.Tensor]

    def step(self, rate: float) -> None:
        """Take a step at this learning rate."""
        optimizer.step(self.inner, rate)

    def moments(self, buffers: Buffers) -> Adapter:
        """Return the moments as arrays, named as ``fl_client.optimizer`` names them."""
        found: Adapter = {}
        averages = {moment: row.cpu().numpy() for moment, row in self.averages.items()}
        for run, held in zip(self.runs, optimizer.parameters(self.inner), strict=True):
            for name, (span, shape) in buffers.spans.items():
                if averages and run.start <= span.start < run.stop:
                    age = self.inner.state[held]["step"]
                    found[f"optimizer/step/{name}"] = age.detach().cpu().numpy().copy()
                    for moment, row in averages.items():
                        found[f"optimizer/{moment}/{name}"] = row[span].reshape(shape).copy()
        return found


def start(buffers: Buffers, silo: int, state: Adapter, kind: str, rows_lr: float) -> Optimizer:
    """Return a silo's optimizer with the moments of ``state``, fresh where it has none.

    ``rows_lr`` times the rate of a step is that of token rows.
    """
    weights, slopes = buffers.weights[silo], buffers.slopes[silo]
    ages = {name: float(state.get(f"optimizer/step/{name}", 0)) for name in buffers.spans}
    firsts, runs = [], []
    for _, names in groupby(ages, key=lambda name: (ages[name], part(name) == "rows")):
        own = list(names)
        firsts.append(own[0])
        runs.append(slice(buffers.spans[own[0]][0].start, buffers.spans[own[-1]][0].stop))
    parameters = [torch.nn.Parameter(weights[run]) for run in runs]
    for parameter, run in zip(parameters, runs, strict=True):
        parameter.grad = slopes[run]
    trained = optimizer.grouped(zip(firsts, parameters, strict=True), rows_lr)
    if kind == "sgd":
        return Optimizer(torch.optim.SGD(trained, lr=0.0), runs, {})
    inner = torch.optim.AdamW(trained, weight_decay=0.0, fused=True)
    averages = {moment: _row(buffers, state, moment) for moment in AVERAGES}
    for first, parameter, run in zip(firsts, parameters, runs, strict=True):
        age = torch.tensor(ages[first], dtype=torch.float32, device=weights.device)
        inner.state[parameter] = {"step": age} | {m: row[run] for m, row in averages.items()}
    return Optimizer(inner, runs, averages)


def _row(buffers: Buffers, state: Adapter, moment: str) -> torch.Tensor:
    like = buffers.weights[0]
    row = np.zeros(like.numel(), np.float32)
    for name, (span, _) in buffers.spans.items():
        held = state.get(f"optimizer/{moment}/{name}")
        if held is not None:
            row[span] = held.reshape(-1)
    return torch.from_numpy(row).to(like)
