"""All that a cohort trains, in one flat buffer with a row a silo; every parameter of every silo is a view of it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from fl_client.cohort.layers import A, B, Pair
from fl_client.cohort.tokens import Rows
from fl_client.model import Warm
from strategies.adapter import part


class Buffers(NamedTuple):
    """Weights and gradients of K silos (K, parameters), and where in a row each parameter lies, with its shape."""

    weights: torch.Tensor
    slopes: torch.Tensor
    spans: dict[str, tuple[slice, torch.Size]]

    def of(self, made: Warm, silo: int) -> Warm:
        """Return a model as one silo's: its parameters are its row's, so it is written, read and corrected there."""
        held = {}
        for name, (span, shape) in self.spans.items():
            held[name] = torch.nn.Parameter(self.weights[silo, span].view(shape))
            held[name].grad = self.slopes[silo, span].view(shape)
        return made._replace(parameters=held)

    def pairs(self, silos: int, dtype: torch.dtype) -> dict[str, Pair]:
        """Return the LoRA pairs of the first so many silos by layer, as they are now; gradients go into the buffer."""
        weights, slopes = self.weights[:silos].to(dtype), self.slopes[:silos]
        modules = [name.removesuffix(A) for name in self.spans if name.endswith(A)]
        return {
            module: Pair(
                *(self._part(held, module + half) for held in (weights, slopes) for half in (A, B))
            )
            for module in modules
        }

    def rows(self, silos: int, tokens: torch.Tensor) -> Rows | None:
        """Return the token rows of the first so many silos, None where none are trained."""
        for name in self.spans:
            if part(name) == "rows":
                weights, slopes = self.weights[:silos], self.slopes[:silos]
                return Rows(self._part(weights, name), self._part(slopes, name), tokens)
        return None

    def _part(self, held: torch.Tensor, name: str) -> torch.Tensor:
        span, shape = self.spans[name]
        return held[:, span].view(len(held), *shape)


def make(made: Warm, silos: int) -> Buffers:
    """Return buffers for so many silos that train what this model trains; nothing is written in them yet."""
    spans, at = {}, 0
    for name in sorted(made.parameters):
        shape = made.parameters[name].shape
        spans[name] = (slice(at, at + shape.numel()), shape)
        at += shape.numel()
    of = next(iter(made.parameters.values()))
    return Buffers(of.new_zeros(silos, at), of.new_zeros(silos, at), spans)
