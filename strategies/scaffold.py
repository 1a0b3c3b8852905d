"""SCAFFOLD: control variates take out of each silo's steps what only that silo wants (Karimireddy et al. 2020,
arXiv 1910.06378, option II).

A silo steps along g - c_k + c: its gradient, less its own mean gradient of last time, plus everyone's. After its round
c_k' = c_k - c + (x - y_k) / R, where R is the sum of the learning rates of the round's steps (the paper's K eta, were
the rate one), and the change of c_k travels beside the change of the adapter. That holds for plain SGD alone.

Departs from the paper in these ways. c is the mean of all c_k of a group with the study's weights, plain where they are
uniform: with a plain mean the optimum of the unweighted sum would be reached whatever the weights say. The corrected
gradient is clipped as any other. Where a silo lost its memory, all begin with c_k = 0 anew. And a silo remembers what
the hub decodes of its change, so that c stays the mean of all c_k whatever a codec rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from strategies.adapter import CONTROL, Adapter, part
from strategies.fedavg import fedavg
from strategies.strategy import Memory, Strategy

OWN = ".own"  # a silo's own control variate, beside NAME.control, everyone's


def scaffold(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average as FedAvg does, each silo's SGD steps corrected by control variates; twice the traffic."""
    plain = fedavg(lora=lora, rows=rows, private=private)
    local = plain.local._replace(init=_init, step=_step, finish=_finish, heard=_heard)
    return plain._replace(local=local, controls=True)


def _init(adapter: Adapter) -> Memory:
    zeros = {
        name + kind: np.zeros(x.shape, np.float32)
        for name, x in adapter.items()
        for kind in (CONTROL, OWN)
    }
    return zeros | {"rates": np.ones(2, np.float32)}


def _step(name: str, gradient: Any, weight: Any, anchor: Any, memory: Memory) -> Any:
    if name + OWN not in memory:  # a private tensor: nobody else drifts with it
        return gradient
    return gradient + (memory[name + CONTROL] - memory[name + OWN])


def _finish(delta: Adapter, memory: Memory) -> Adapter:
    changes = {}
    for name, moved in delta.items():
        rates = memory["rates"][int(part(name) == "rows")]
        changes[name] = (-memory[name + CONTROL] - moved / rates).astype(moved.dtype)
    return delta | {name + CONTROL: x for name, x in changes.items()}


def _heard(memory: Memory, sent: Adapter) -> Memory:
    owns = {name.removesuffix(CONTROL): x for name, x in sent.items() if name.endswith(CONTROL)}
    return memory | {name + OWN: memory[name + OWN] + change for name, change in owns.items()}
