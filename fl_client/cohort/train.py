"""The training loop of a cohort: what ``fl_client.train`` does for one silo, for several in one forward and backward.

The loss is the sum of each silo's own mean, and nothing that one silo trains meets what another does, so each row of
the buffer has the gradient that its silo would have by itself. Clipping, the strategy's hooks and the optimizer work on
rows. What differs from training one at a time is the order in which a product is summed: the last bits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import torch

from fl_client import model, step, train
from fl_client.cohort import buffers, loss, optimizer, teachers
from fl_client.cohort.buffers import Buffers
from fl_client.cohort.optimizer import Optimizer
from fl_client.cohort.reader import Reader, reading
from fl_client.config import Train
from fl_client.hooks import Hooks
from fl_client.model import Warm
from fl_client.step import Text
from strategies.adapter import Adapter
from tasks import encode
from tasks.encode import IGNORED, Blocks

LOG = logging.getLogger("bhasha_fl.train")
TINY = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class Member(NamedTuple):
    """What one silo trains from; ``hooks`` makes those of its strategy, for a model that is set to its adapter."""

    adapter: Adapter
    blocks: Blocks
    plan: train.Plan
    moments: Adapter = {}
    hooks: Callable[[Warm], Hooks | None] = lambda made: None


class Trained(NamedTuple):
    """What one silo's training gave: its adapter, its moments, the loss of each step in nats a token."""

    adapter: Adapter
    moments: Adapter
    losses: list[float]

    @property
    def loss(self) -> float:
        """The mean loss; raises ``FloatingPointError`` where it is no number."""
        mean = float(torch.tensor(self.losses).mean())
        if not np.isfinite(mean):
            raise FloatingPointError(f"the loss became {mean}")
        return mean


class Silo(NamedTuple):
    """A member at work: its plan, its text on the device, its row as a model, its optimizer and its hooks."""

    plan: train.Plan
    text: Text
    made: Warm
    used: Optimizer
    hooks: Hooks | None


class Cohort(NamedTuple):
    """What the steps of one cohort work on."""

    reader: Reader
    held: Buffers
    silos: list[Silo]
    options: Train
    taught: list[Buffers]


def fit(
    made: Warm, members: Sequence[Member], options: Train, remember: bool = True
) -> list[Trained]:
    """Train each member on its own text and return what came of it, in the order given.

    All train what ``made`` trains, with the same options. One whose loss becomes NaN leaves the others as they are.
    Where nobody is to ``remember`` them no moments come back.
    """
    order = sorted(
        range(len(members)), key=lambda i: -members[i].plan.steps
    )  # who ends first is last
    held = buffers.make(made, len(members))
    silos = [_silo(made, held, row, members[i], options) for row, i in enumerate(order)]
    taught = teachers.of(made, [silo.plan.lesson for silo in silos])
    told = []
    with ExitStack() as stack:
        made.model.train()
        if options.checkpointing:
            step.recompute(made, on=True)
            stack.callback(step.recompute, made, on=False)
        reader = stack.enter_context(reading(made, step.half(options, made.device)))
        cohort = Cohort(reader, held, silos, options, taught)
        for done in range(silos[0].plan.steps):
            told.append(_step(cohort, done))
    losses = torch.stack(told).tolist()
    trained = {i: _trained(cohort, row, losses, remember) for row, i in enumerate(order)}
    return [trained[i] for i in range(len(members))]


def _silo(made: Warm, held: Buffers, row: int, member: Member, options: Train) -> Silo:
    own = held.of(made, row)
    model.write(own, member.adapter)
    used = optimizer.start(held, row, member.moments, options.optimizer, options.rows_lr)
    text = step.text(member.blocks, made.device)
    return Silo(member.plan, text, own, used, member.hooks(own))


def _trained(cohort: Cohort, row: int, losses: list[list[float]], remember: bool) -> Trained:
    silo = cohort.silos[row]
    moments = silo.used.moments(cohort.held) if remember else {}
    own = [nats[row] for nats in losses[: silo.plan.steps]]
    return Trained(model.read(silo.made), moments, own)


def _step(cohort: Cohort, done: int) -> torch.Tensor:
    """Take one step of every silo that has one more to take; return the loss of each row, 0 where it has ended."""
    silos = [silo for silo in cohort.silos if done < silo.plan.steps]
    active = len(silos)
    cohort.held.slopes[:active].zero_()
    nats = torch.zeros(len(cohort.silos), device=cohort.reader.made.device)
    nats[:active] = _backward(cohort, silos, done)
    for silo in silos:
        if silo.hooks is not None:
            silo.hooks.correct()
    slopes = cohort.held.slopes[:active]
    sizes = torch.linalg.vector_norm(slopes, dim=1)
    slopes.mul_((cohort.options.clip / (sizes + TINY)).clamp(max=1.0)[:, None])
    for silo in silos:
        silo.used.step(train.rate(silo.plan, silo.plan.first + done, cohort.options))
        if silo.hooks is not None:
            silo.hooks.hold()
    LOG.debug("step", extra={"event": {"kind": "step", "steps": active}})
    return nats


def _backward(cohort: Cohort, silos: list[Silo], done: int) -> torch.Tensor:
    """Add each silo's gradient of one step into the buffer; return their losses in nats a token."""
    size = cohort.options.batch_size
    rows = [encode.order(s.plan.first + done, size, len(s.text.ids), s.plan.key) for s in silos]
    learned = [max(1, int(s.text.learned[own].sum())) for s, own in zip(silos, rows, strict=True)]
    shares = 1 / torch.tensor(learned, device=cohort.reader.made.device)
    total = torch.zeros(len(silos), device=cohort.reader.made.device)
    lessons = [silo.plan.lesson for silo in silos]
    piece = cohort.options.micro_batch or size
    for at in range(0, size, piece):
        ids, wanted = _batch(silos, [own[at : at + piece] for own in rows])
        taught = teachers.taught(cohort.reader, cohort.taught, lessons, ids)
        head = cohort.reader.wear(cohort.held, len(silos))
        means = loss.means(cohort.reader.hidden(ids), wanted.flatten(), shares, head, taught)
        means.sum().backward()  # type: ignore[no-untyped-call]
        total += means.detach()
    return total


def _batch(silos: list[Silo], rows: list[step.Rows]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the blocks of all silos as ids and as the tokens that follow them, shorter ones filled up at their end."""
    length = max(silo.text.ids.shape[1] for silo in silos)
    ids, wanted = [], []
    for silo, own in zip(silos, rows, strict=True):
        at = torch.from_numpy(own).to(silo.text.ids.device)
        more = length - silo.text.ids.shape[1]
        pad = torch.nn.functional.pad
        ids.append(pad(silo.text.ids[at], (0, more)))
        wanted.append(pad(silo.text.labels[at][:, 1:], (0, more + 1), value=IGNORED))
    return torch.cat(ids), torch.cat(wanted)
