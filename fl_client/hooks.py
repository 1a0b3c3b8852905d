"""A strategy's silo half, applied around each step of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fl_client.model import Warm
from strategies.strategy import Local, Memory, gradient_as_is


class Hooks:
    """A strategy's correction of gradients, and its frozen tensors."""

    def __init__(self, made: Warm, local: Local, round_number: int, memory: Memory) -> None:
        self._local = local
        self._memory = {n: torch.from_numpy(np.array(x)).to(made.device) for n, x in memory.items()}
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
