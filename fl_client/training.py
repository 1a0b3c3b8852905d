"""One round's training in a silo: what comes before the steps and what comes after, by value.

The steps between them are ``train.fit`` for a silo by itself; ``cohort.train.fit`` takes several silos at once.
"""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

from fl_client import bases, basis, model, optimizer, spec, train, update
from fl_client.hooks import Hooks
from fl_client.messages import Fault, Order
from fl_client.model import Warm
from fl_client.workers import Result, Work
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.strategy import Memory, Strategy
from tasks import encode
from tasks.encode import Blocks
from tasks.task import Example

if TYPE_CHECKING:
    from fl_client.checkpoint import Keeper
    from fl_client.config import Study

LOG = logging.getLogger("bhasha_fl.silo")


class Training(NamedTuple):
    """What the steps of one round work on, and what is made of them afterwards."""

    work: Work
    made: Warm
    strategy: Strategy
    start: Adapter  # all that the model is set to before the first step
    blocks: Blocks
    plan: train.Plan
    moments: Adapter  # of the optimizer, from earlier rounds
    local: Memory  # of the strategy's silo half

    @property
    def sent(self) -> Adapter:
        """The start of what is sent when the round has been trained."""
        number = self.work.order.round
        return algebra.pick(self.start, [n for n in self.start if self.strategy.sent(n, number)])

    def hooks(self, made: Warm) -> Hooks:
        """Return the strategy's hooks around each step, on a model that is set to the start."""
        return Hooks(made, self.strategy.local, self.work.order.round, self.local)


def text(work: Work, made: Warm) -> Blocks:
    """Return a silo's training text as blocks, remembered from round to round: tokenising can cost as much as steps."""
    length = work.study.train.length
    return _packed(work.site.train, work.study.model.base, made.end, length)


@lru_cache(maxsize=1024)  # silos; their blocks are about as large as the text that is held anyway
def _packed(examples: tuple[Example, ...], base: str, end: int, length: int) -> Blocks:
    return encode.pack(examples, partial(bases.tokens, bases.tokenizer(base)), end, length)


def _check(study: Study, order: Order) -> None:
    """Raise ``Fault`` where a study has no such round: rates fall to its last one, and beyond it below 0."""
    if order.round > study.rounds:
        raise Fault("malformed", f"there is no round {order.round} of {study.rounds}")
    if order.visit and spec.build(study.schedule, "schedule").buffer is None:
        raise Fault("malformed", f"visit {order.visit} in a study whose silos keep common rounds")


def begun(work: Work) -> Training:
    """Return what a round trains on.

    Raises ``Fault`` where the study has no such round, the hub sent another adapter than this round needs, or the line
    may not carry the update.
    """
    _check(work.study, work.order)
    made, strategy = basis.ready(work)
    start = basis.received(made, strategy, work, training=True)
    options, turn = work.study.train, work.order.turn
    blocks = text(work, made)
    plan = train.Plan(
        (turn - 1) * options.steps,
        min(work.order.steps or options.steps, options.steps),
        work.study.rounds * options.steps,
        options.lr,
        f"{work.study.seed}:{work.site.name}",
        (work.order.round - turn) * options.steps,
    )
    before = work.memory if options.keep_optimizer else {}
    held = optimizer.remembered(before, strategy.restarts)
    now = Training(work, made, strategy, start, blocks, plan, held, {})
    update.foreseen(work, strategy, algebra.layout(now.sent))
    return now._replace(local=update.recalled(work, strategy, now.sent, train.rates(plan, options)))


def ended(now: Training, trained: Adapter, moments: Adapter, loss: float) -> Result:
    """Return the encoded update. What must be remembered is on disk before it is returned."""
    work, strategy = now.work, now.strategy
    kept = {f"private/{n}": trained[n] for n in trained if strategy.scope(n) == "silo"}
    kept |= moments if work.study.train.keep_optimizer else {}
    delta = algebra.change(algebra.pick(trained, now.sent), now.sent)
    delta = update.of_text(delta, now.made, now.blocks) if strategy.local.own_rows else delta
    LOG.info("%s round %d: loss %.3f nats a token", work.site.name, work.order.turn, loss)
    wire, told = update.encoded(work, strategy, now.sent, delta, now.local, kept)
    return Result(wire, {"loss": loss} | told, {"silo": work.site.name, "round": work.order.turn})


def single(now: Training, keeper: Keeper | None = None) -> Result:
    """Train a silo by itself and return the encoded update; raises ``Fault``."""
    made, options = now.made, now.work.study.train
    model.write(made, now.start)
    used = optimizer.start(made, now.moments, options.optimizer, options.rows_lr)
    around = now.hooks(made)
    try:
        fitted = train.fit(made, now.blocks, options, now.plan, used, around, keeper)
    except FloatingPointError as error:
        raise Fault("not_finite", str(error)) from error
    result = ended(now, model.read(made), optimizer.moments(used), fitted.loss)
    if keeper is None:
        return result
    more = {"losses": fitted.losses}
    return result._replace(metrics=result.metrics | fitted.speed, facts=result.facts | more)
