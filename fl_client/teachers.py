"""What a silo's teachers expect of its text: the same base under other adapters, of which the mean is learned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from fl_client import model
from fl_client.model import Warm
from fl_client.tries import Lesson
from tasks.encode import IGNORED

Weights = dict[str, torch.Tensor]


class Teachers(NamedTuple):
    """The model that learns, the share of what is learned that is taught, and the weights of each teacher by name."""

    made: Warm
    share: float
    weights: list[Weights]


def of(made: Warm, lesson: Lesson) -> Teachers:
    """Return the teachers of a lesson on this model, whose own adapter stays as it is. Nothing may be merged on it."""
    held = []
    for adapter in lesson.teachers:
        own = made._replace(parameters={n: _copy(p) for n, p in made.parameters.items()})
        model.write(own, adapter)
        held.append({name: p.detach() for name, p in own.parameters.items()})
    return Teachers(made, lesson.share, held)


def _copy(parameter: torch.nn.Parameter) -> torch.nn.Parameter:
    return torch.nn.Parameter(parameter.detach().clone(), requires_grad=False)


def targets(taught: Teachers, ids: torch.Tensor, wanted: torch.Tensor, half: bool) -> torch.Tensor:
    """Return what is to be learned, float32 (blocks, length, vocabulary), 0 where nothing is.

    ``ids`` (blocks, length) is what is read and ``wanted`` (blocks, length) what follows. At each place the share of
    the teachers is what they expect in the mean, the rest is the token that came.
    """
    learned = (wanted != IGNORED)[..., None]
    found = expected(taught, ids, half).mul_(learned * taught.share)
    came = (learned * (1 - taught.share)).to(found.dtype)
    return found.scatter_add_(-1, wanted.clamp(min=0)[..., None], came)


@torch.no_grad()
def expected(taught: Teachers, ids: torch.Tensor, half: bool) -> torch.Tensor:
    """Return the mean of the teachers' odds (blocks, length, vocabulary), float32."""
    model = taught.made.model
    total: torch.Tensor | float = 0.0
    model.eval()
    for weights in taught.weights:
        # A context for each: in one, casts of weights would be kept from one teacher to the next.
        with (
            _worn(taught.made, weights),
            torch.autocast(ids.device.type, torch.bfloat16, enabled=half),
        ):
            logits = model(input_ids=ids, use_cache=False).logits
        total = torch.softmax(logits.float(), -1).add_(total)
    model.train()
    return torch.as_tensor(total) / len(taught.weights)


@contextmanager
def _worn(made: Warm, weights: Weights) -> Iterator[None]:
    """Let a model stand with other weights in the place of its adapter's."""
    own = {name: p.data for name, p in made.parameters.items()}
    try:
        for name, p in made.parameters.items():
            p.data = weights[name]
        yield
    finally:
        for name, p in made.parameters.items():
            p.data = own[name]
