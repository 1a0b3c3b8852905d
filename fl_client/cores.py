"""A trained core inside LoRA pairs: what leaves A passes an r x r matrix before it enters B.

It is a parameter of PEFT's own layer of B, so it is found, moved, summed over ranks and stepped as the factors are; no
product of it is ever formed. A private slice beside the shared one goes past it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear


def attach(model: Any, rank: int) -> None:
    """Give each LoRA pair of a model a core over its first ``rank`` coordinates, the identity."""
    for name, layer in model.named_modules():
        if name.endswith(".lora_B.default"):
            eye = torch.eye(rank, dtype=layer.weight.dtype, device=layer.weight.device)
            layer.register_parameter("core", torch.nn.Parameter(eye))
            layer.register_forward_pre_hook(_through(rank))


def _through(rank: int) -> Callable[..., torch.Tensor]:
    def turn(layer: Any, given: tuple[torch.Tensor, ...]) -> torch.Tensor:
        turned = linear(given[0][..., :rank], layer.core)
        own = given[0][..., rank:]
        return torch.cat([turned, own], dim=-1) if own.shape[-1] else turned

    return turn
