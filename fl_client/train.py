"""The training loop of one silo, and nothing else: steps on the adapter, their rate scheduled over the whole study."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

from fl_client import checkpoint, model, optimizer, ranks, spec, step, teachers
from fl_client.checkpoint import Keeper, Left, Watch
from fl_client.config import Train
from fl_client.gauge import Gauge
from fl_client.hooks import Hooks
from fl_client.model import Warm
from fl_client.optimizer import Optimizer
from fl_client.parallel.parallel import Parallel, Team
from fl_client.step import Text
from fl_client.teachers import Teachers
from fl_client.tries import NO_LESSON, Lesson
from strategies import adapter as algebra
from tasks import encode
from tasks.encode import Blocks

LOG = logging.getLogger("bhasha_fl.train")


class Plan(NamedTuple):
    """Which steps to train: from ``first`` (counted over the study) for ``steps``, of ``total`` in the study.

    Rates follow the study, which is ``ahead`` by so many steps where a silo trains less often than there are rounds.
    """

    first: int
    steps: int
    total: int
    lr: float
    key: str  # fixes the order of the blocks
    ahead: int = 0
    lesson: Lesson = NO_LESSON


class Fit(NamedTuple):
    """What training gave: the mean loss and that of every step, in nats a token, and how fast each rank was."""

    loss: float
    losses: list[float]
    speed: dict[str, float]  # NAME/RANK, see ``Gauge.numbers``


class Curve(NamedTuple):
    """The loss of each step in nats a token: what all ranks have told each other, then this rank's part of the rest."""

    told: list[float]
    own: list[torch.Tensor]

    def all(self) -> list[float]:
        """Return the loss of every step; all ranks ask together."""
        if self.own:
            self.told.extend(ranks.total(torch.stack(self.own)).tolist())
            self.own.clear()
        return self.told


class Run(NamedTuple):
    """What the steps of one ``fit`` work on."""

    made: Warm
    text: Text
    taught: Teachers | None
    options: Train
    plan: Plan
    used: Optimizer
    hooks: Hooks | None
    team: Team
    gauge: Gauge


def fit(
    made: Warm,
    blocks: Blocks,
    options: Train,
    plan: Plan,
    used: Optimizer,
    hooks: Hooks | None = None,
    keeper: Keeper | None = None,
) -> Fit:
    """Train the adapter in place, on from the step checkpoint of this work where ``keeper`` finds one.

    Raises:
        FloatingPointError: the loss became NaN or infinite.
        Left: the group was asked to leave; a checkpoint was kept.
    """
    gauge, tokens = Gauge(made.device), 0
    text = step.text(blocks, made.device)
    taught = teachers.of(made, plan.lesson) if plan.lesson.teachers else None
    with _team(made, used, options, gauge) as team:
        run = Run(made, text, taught, options, plan, used, hooks, team, gauge)
        curve, watch = _taken_up(run, keeper), Watch(keeper)
        for done in range(len(curve.told) + 1, plan.steps + 1):
            due = team.due(done, done == plan.steps)
            if due:
                watch.vote()
            rows = encode.order(plan.first + done - 1, options.batch_size, len(text.ids), plan.key)
            curve.own.append(_step(run, plan.first + done - 1, rows))
            tokens += int(text.learned[ranks.share(rows)].sum())
            if due:
                team.meet()
                leave, keep = watch.result()
                if keep and keeper is not None and not (keeper.ends and done == plan.steps):
                    _keep(run, keeper, curve)
                    if leave:
                        raise Left(f"asked to leave after step {done} of {plan.steps}")
    mean = float(torch.tensor(curve.all()).mean())
    if not np.isfinite(mean):
        raise FloatingPointError(f"the loss became {mean} at lr {plan.lr}")
    return Fit(mean, curve.told, gauge.numbers(tokens))


@contextmanager
def _team(made: Warm, used: Optimizer, options: Train, gauge: Gauge) -> Iterator[Team]:
    way: Parallel = spec.build(options.parallel, "parallel")
    team = way.join(made, used, options, gauge)
    made.model.train()
    if options.checkpointing:
        step.recompute(made, on=True)
    try:
        yield team
    finally:
        if options.checkpointing:
            step.recompute(made, on=False)
        used.inner.zero_grad()  # also what a step that failed has left
        team.close()


def _step(run: Run, number: int, rows: step.Rows) -> torch.Tensor:
    """Take one step of the study; return this rank's part of its loss."""
    step.seed(run.plan.key, number)
    loss = step.backward(run.team, run.text, rows, run.options, run.taught)
    if run.hooks is not None:
        run.hooks.correct()
    torch.nn.utils.clip_grad_norm_(run.used.parameters, run.options.clip)
    run.used.step(rate(run.plan, number, run.options))
    if run.hooks is not None:
        run.hooks.hold()
    run.used.inner.zero_grad()
    run.gauge.sample()
    LOG.debug("step", extra={"event": {"kind": "step"}})
    return loss


def rate(plan: Plan, number: int, options: Train) -> float:
    """Return the learning rate of a step: from ``lr`` in a line or half a cosine to ``decay * lr``, or constant."""
    if options.schedule == "constant":
        return plan.lr
    last, number = max(1, plan.total - 1), number + plan.ahead
    if options.schedule == "cosine":
        return plan.lr * (1 - (1 - options.decay) * (1 - math.cos(math.pi * number / last)) / 2)
    return plan.lr * (1 - (1 - options.decay) * number / last)


def rates(plan: Plan, options: Train) -> tuple[float, float]:
    """Return the sum of the learning rates of a plan's steps, and that of token rows."""
    steps = range(plan.first, plan.first + plan.steps)
    total = sum(rate(plan, number, options) for number in steps)
    return total, total * options.rows_lr


def _taken_up(run: Run, keeper: Keeper | None) -> Curve:
    held = checkpoint.recall(keeper) if keeper is not None else None
    if held is None:
        return Curve([], [])
    model.write(run.made, algebra.under("adapter/", held.arrays) | run.made.merged.tensors)
    optimizer.take_up(run.used, held.arrays)
    run.team.load(algebra.under("team/", held.arrays))
    LOG.info("training goes on after step %d of its %d", len(held.losses), run.plan.steps)
    return Curve(held.losses, [])


def _keep(run: Run, keeper: Keeper, curve: Curve) -> None:
    with run.gauge.aside():
        losses = curve.all()
        if ranks.first():
            arrays = {f"adapter/{n}": x for n, x in model.read(run.made).items()}
            arrays |= optimizer.moments(run.used)
            arrays |= {f"team/{n}": x for n, x in run.team.state().items()}
            checkpoint.keep(keeper, losses, arrays)
