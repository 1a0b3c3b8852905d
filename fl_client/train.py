"""The training loop of one silo, and nothing else: AdamW on the adapter, a linear decay over the whole study."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import numpy as np
import torch

from fl_client.config import Train
from fl_client.model import Warm
from strategies.adapter import Adapter
from strategies.strategy import Local, Memory, gradient_as_is
from tasks import encode
from tasks.encode import Blocks

LOG = logging.getLogger("bhasha_fl.train")


class Plan(NamedTuple):
    """Which steps to train: from ``first`` (counted over the study) for ``steps``, of ``total`` in the study."""

    first: int
    steps: int
    total: int
    lr: float
    key: str  # fixes the order of the blocks


class Optimizer(NamedTuple):
    """AdamW over the adapter's parameters, by name."""

    names: list[str]
    adamw: torch.optim.AdamW


def optimizer(made: Warm, state: Adapter) -> Optimizer:
    """Return AdamW with the moments of ``state`` (``optimizer/MOMENT/NAME``), or fresh where it is empty."""
    names = sorted(made.parameters)
    adamw = torch.optim.AdamW([made.parameters[n] for n in names], weight_decay=0.0, fused=True)
    if state:
        moments = {
            i: {
                moment: torch.from_numpy(np.array(state[f"optimizer/{moment}/{name}"]))
                for moment in ("step", "exp_avg", "exp_avg_sq")
            }
            for i, name in enumerate(names)
            if f"optimizer/step/{name}" in state
        }
        groups = adamw.state_dict()["param_groups"]
        adamw.load_state_dict({"state": moments, "param_groups": groups})
    return Optimizer(names, adamw)


def moments(used: Optimizer) -> Adapter:
    """Return the optimizer's moments as arrays, named as ``optimizer`` reads them."""
    state = used.adamw.state_dict()["state"]
    return {
        f"optimizer/{moment}/{used.names[i]}": value.detach().cpu().numpy().copy()
        for i, held in state.items()
        for moment, value in held.items()
    }


def fit(
    made: Warm,
    blocks: Blocks,
    options: Train,
    plan: Plan,
    used: Optimizer,
    hooks: Hooks | None = None,
) -> float:
    """Train the adapter in place; return the mean loss in nats a token. Raises ``FloatingPointError`` on NaN."""
    ids, labels = (torch.from_numpy(x).to(made.device) for x in (blocks.ids, blocks.labels))
    half = options.dtype == "bfloat16"
    parameters = [made.parameters[name] for name in used.names]
    losses = []
    for step in range(plan.first, plan.first + plan.steps):
        at = torch.from_numpy(encode.order(step, options.batch_size, len(ids), plan.key))
        with torch.autocast(made.device.type, torch.bfloat16, enabled=half):
            loss = made.model(input_ids=ids[at], labels=labels[at], use_cache=False).loss
        loss.backward()
        if hooks is not None:
            hooks.correct()
        torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        for group in used.adamw.param_groups:
            group["lr"] = rate(plan, step, options.decay)
        used.adamw.step()
        if hooks is not None:
            hooks.hold()
        used.adamw.zero_grad()
        losses.append(loss.detach())
        LOG.debug("step", extra={"event": {"kind": "step"}})
    mean = float(torch.stack(losses).mean())
    if not np.isfinite(mean):
        raise FloatingPointError(f"the loss became {mean} at lr {plan.lr}")
    return mean


def rate(plan: Plan, step: int, decay: float) -> float:
    """Return the learning rate of a step: linear from ``lr`` down to ``decay * lr`` at the study's end."""
    return plan.lr * (1 - (1 - decay) * step / max(1, plan.total - 1))


class Hooks:
    """A strategy's silo half, applied around each step: its correction of gradients, and its frozen tensors."""

    def __init__(self, made: Warm, local: Local, round_number: int, memory: Memory) -> None:
        self._local, self._memory = local, memory
        self._corrected: list[tuple[str, torch.nn.Parameter, Any, torch.Tensor]] = []
        self._frozen: list[tuple[torch.nn.Parameter, Any, torch.Tensor]] = []
        for name, (parameter, where) in made.tensors.items():
            weight = made.parameters[parameter]
            anchor = weight.detach()[where].clone()
            if not local.trainable(name, round_number):
                self._frozen.append((weight, where, anchor))
            elif local.step is not gradient_as_is:
                self._corrected.append((name, weight, where, anchor))

    def correct(self) -> None:
        """Take frozen tensors out of the gradient, and let the strategy correct the others'."""
        with torch.no_grad():
            for weight, where, _ in self._frozen:
                if weight.grad is not None:
                    weight.grad[where] = 0
            for name, weight, where, anchor in self._corrected:
                if weight.grad is not None:
                    now, given = weight.detach()[where], weight.grad[where]
                    weight.grad[where] = self._local.step(name, given, now, anchor, self._memory)

    def hold(self) -> None:
        """Put frozen tensors back: moments of rounds in which they were trained may have moved them."""
        with torch.no_grad():
            for weight, where, anchor in self._frozen:
                weight[where] = anchor
