"""What a silo tells of its first gradients: sketches, computed as gradients of LoRA slices that are zero.

A slice stands beside each layer as a merged part does, one of its factors frozen and drawn from the study's seed, the
other zero. It changes no activation, and the gradient of the factor at zero is the sketch (``strategies/survey.py``):
the cost is that of a LoRA of its rank, under autocast, in micro-batches and over a sharded base as in training.

The text is that of the steps of round 1, in their order; the adapter is at its start, whose product is zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from fl_client import basis, merged, model, ranks, step
from fl_client.config import Train
from fl_client.messages import Fault
from fl_client.model import Warm
from fl_client.workers import Result, Work
from strategies import adapter as algebra
from strategies import survey
from strategies.adapter import Adapter, Layout
from strategies.product import A, B
from tasks import encode
from tasks.encode import Blocks


def gradient(work: Work) -> Result:
    """Return this silo's sketches of the gradient of its mean loss a token, float32; raises ``Fault``."""
    made, strategy = basis.ready(work)
    shapes = algebra.layout(basis.shared(made, strategy, work))
    if strategy.survey is None:
        raise Fault("malformed", "the study's strategy surveys nothing")
    model.write(made, {})
    blocks = encode.pack(work.site.train, made.tokenize, made.end, work.study.train.length)
    names = survey.sketched(strategy.survey, shapes)
    key = f"{work.study.seed}:{work.site.name}"
    found = sketches(made, blocks, work.study.train, names, shapes, work.study.seed, key)
    if not all(bool(np.isfinite(x).all()) for x in found.values()):
        raise Fault("not_finite", "a first gradient is not finite")
    return Result(found, {}, {"silo": work.site.name, "round": 0})


def sketches(
    made: Warm, blocks: Blocks, options: Train, names: Layout, shapes: Layout, seed: int, key: str
) -> Adapter:
    """Return the sketches of these names over the text of the first steps, summed over all ranks."""
    text = step.text(blocks, made.device)
    rows = [
        encode.order(number, options.batch_size, len(text.ids), key)
        for number in range(options.steps)
    ]
    learned = max(1, int(sum(text.learned[own].sum() for own in rows)))
    with _beside(made, names, shapes, seed) as zeros, _recomputing(made, options):
        for number, own in enumerate(rows):
            step.seed(key, number)
            for piece in step.pieces(own, options.micro_batch):
                nats = step.loss(made.model, text, piece, step.half(options, made.device))
                (nats / learned).backward()  # type: ignore[no-untyped-call]
        found = [torch.zeros_like(x) if x.grad is None else x.grad for x in zeros.values()]
        ranks.add(found)
    return {n: x.float().cpu().numpy() for n, x in zip(zeros, found, strict=True)}


@contextmanager
def _beside(
    made: Warm, names: Layout, shapes: Layout, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Put a slice beside each layer; yield the factors at zero by the names of their sketches."""
    zeros, handles = {}, []
    for name, shape in names.items():
        zero = torch.zeros(shape, device=made.device, requires_grad=True)
        drawn = torch.from_numpy(survey.frame(name, shapes, seed)).to(made.device)
        b, a = (drawn, zero) if name.endswith(A) else (zero, drawn)
        layer = made.model.get_submodule(name.removesuffix(A).removesuffix(B))
        handles.append(layer.register_forward_hook(merged.beside(b, a, 1.0)))
        zeros[name] = zero
    try:
        yield zeros
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _recomputing(made: Warm, options: Train) -> Iterator[None]:
    """Let the model train as the study says; no gradient of the adapter itself is left behind."""
    made.model.train()
    if options.checkpointing:
        step.recompute(made, on=True)
    try:
        yield
    finally:
        if options.checkpointing:
            step.recompute(made, on=False)
        for parameter in made.parameters.values():
            parameter.grad = None
