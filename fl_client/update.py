"""What travels of a round's training: the strategy's last word on it, then the codec."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fl_client import basis, memory, ranks, spec
from fl_client.messages import Fault
from fl_client.workers import Result, Work
from strategies import adapter as algebra
from strategies import budget
from strategies.adapter import Adapter, Array, Layout
from strategies.budget import Fit
from strategies.codecs.codec import Chain, Key
from strategies.strategy import Memory, Passes, Strategy

if TYPE_CHECKING:
    from fl_client.model import Warm
    from tasks.encode import Blocks

LOG = logging.getLogger("bhasha_fl.silo")
Told = dict[str, float]
RESET: Told = {
    "codec_reset": 1.0
}  # what both sides should know of this silo's updates, it does not


def recalled(work: Work, strategy: Strategy, sent: Adapter, rates: Sequence[float]) -> Memory:
    """Return the memory of the strategy's silo half as a round begins, with what came down beside the adapter.

    ``rates`` are the sums of the rates of its steps, of LoRA pairs and of token rows.
    """
    held: Memory = algebra.under("local/", work.memory) or strategy.local.init(sent)
    if not strategy.controls:
        return held
    return held | algebra.controls(work.received) | {"rates": np.array(rates, np.float32)}


def of_text(delta: Adapter, made: Warm, blocks: Blocks) -> Adapter:
    """Return an update with zeros in the token rows whose tokens are not in this text."""
    held = np.isin(made.peft_config["trainable_token_indices"] or [], blocks.ids)[:, None]
    return {n: x * held if algebra.part(n) == "rows" else x for n, x in delta.items()}


def encoded(
    work: Work, strategy: Strategy, start: Adapter, delta: Adapter, local: Memory, kept: Adapter
) -> tuple[Adapter, Told]:
    """Return what travels of an update, in the first pass where there are two, and what the hub is told of its codec.

    The silo's memory of this round is durable when it returns.
    """
    delta = strategy.local.finish(delta, local)
    if strategy.passes:
        delta, held = _first(work, strategy.passes, start, delta)
        kept = kept | {f"pass/{n}": x for n, x in held.items()}
    vector = algebra.flatten(delta)
    before, told = _residual(work, spec.codec(work.study.codec).init(vector.size))
    told |= _controls(work, strategy)
    wire, residual = _wire(work, strategy, vector, before)
    if work.round_bytes:
        told |= _cost(work, vector, before, residual, wire)
    if strategy.controls:
        arrives = _decoded(work, wire, vector.size)
        local = strategy.local.heard(local, algebra.unflatten(arrives, algebra.layout(delta)))
    kept = kept | {f"local/{n}": x for n, x in local.items()} | {"residual": residual}
    if ranks.first():
        memory.keep(work.home, work.order.turn, kept, work.order.best, work.order.lost)
    return wire, told


def _first(work: Work, passes: Passes, start: Adapter, delta: Adapter) -> tuple[Adapter, Adapter]:
    """Return what is sent in the first of two passes, and what is held for the second."""
    size, key = work.order.sketch, f"{work.study.seed}:{work.order.turn}"
    sent, second = passes.layouts(algebra.layout(delta), size)
    if second and size < 1:
        raise Fault("malformed", "the hub asks for sketches without columns")
    with np.errstate(over="ignore", invalid="ignore"):  # the codec refuses what is no number
        held = passes.held(start, delta)
        found = passes.first(held, size, key)
    return algebra.pick(delta | found, sent), held


def second(work: Work) -> Result:
    """Return what a silo answers in the second pass of a round, from what it holds of the first.

    Raises:
        Fault: it does not hold that round, or was asked in another shape than it sent.
    """
    strategy: Strategy = spec.build(work.study.strategy, "strategy")
    held = algebra.under("pass/", memory.held(work.home, work.order.turn))
    if not strategy.passes or not held:
        raise Fault("pass_missing")
    expected, _ = strategy.passes.layouts(algebra.layout(held), work.order.sketch)
    if algebra.layout(work.received) != expected or not basis.sound(work.received):
        raise Fault("malformed", "the hub asks for another pass than this round has")
    vector = algebra.flatten(strategy.passes.second(held, work.received))
    wire, _ = _wire(work, strategy, vector, np.zeros(0, np.float32))
    return Result(wire, {}, {"silo": work.site.name, "round": work.order.turn})


def foreseen(work: Work, strategy: Strategy, sent: Layout) -> None:
    """Raise ``Fault`` where the line may not carry what comes of tensors of these shapes; nothing is trained yet."""
    shapes = sent | {own: sent[name] for own, name in strategy.beside(sent).items()}
    if strategy.passes:
        shapes, _ = strategy.passes.layouts(shapes, work.order.sketch)
    _fitted(work, strategy, algebra.size(shapes))


def _fitted(work: Work, strategy: Strategy, size: int) -> Chain:
    """Return the codec as it sends so many numbers within the silo's budget, of which two passes take half each."""
    most = work.round_bytes // 2 if strategy.passes else work.round_bytes
    try:
        return _fit(work.study.codec, size, most).chain
    except spec.SpecError:
        raise
    except ValueError as error:
        raise Fault("over_budget", str(error)) from error


@lru_cache(maxsize=4)
def _fit(codec: str, size: int, most: int) -> Fit:
    return budget.fit(spec.codec(codec), size, most)


def _wire(work: Work, strategy: Strategy, vector: Array, residual: Array) -> tuple[Adapter, Array]:
    """Return a vector as the codec sends it and what it leaves out; raises ``Fault`` where it holds no numbers."""
    codec = _fitted(work, strategy, vector.size)
    try:
        return codec.encode(vector, residual, _key(work))
    except ValueError as error:
        raise Fault("not_finite", str(error)) from error


def _key(work: Work) -> Key:
    return Key(work.study.seed, work.order.turn, work.site.name)


def _cost(work: Work, vector: Array, before: Array, after: Array, wire: Adapter) -> Told:
    """Return which share of the norm of what was to be sent stayed behind."""
    sent = _decoded(work, wire, vector.size)
    codec = spec.codec(work.study.codec)
    return {"left_behind": budget.behind(codec, vector, before, after, sent)}


def _decoded(work: Work, wire: Adapter, size: int) -> Array:
    """Return the vector that the hub reads from a wire."""
    return spec.codec(work.study.codec).decode(wire, size, _key(work))


def _residual(work: Work, zero: Array) -> tuple[Array, Told]:
    """Return what the codec left out before; where that is gone or does not fit, zero, of which the hub hears (C50)."""
    held = work.memory.get("residual")
    if held is not None and held.shape == zero.shape:
        return held, {}
    if _nothing_counted(work) or not zero.size:
        return zero, {}
    dropped = "unknown" if held is None else f"{algebra.norm({'residual': held}):g}"
    LOG.warning(
        "%s: the codec's residual is gone, old or does not fit and starts from zero; dropped norm %s",
        work.site.name,
        dropped,
    )
    return zero, RESET


def _controls(work: Work, strategy: Strategy) -> Told:
    """Return what the hub hears where the silo's control variates, which began at zero, should be there."""
    if not strategy.controls or _nothing_counted(work) or algebra.under("local/", work.memory):
        return {}
    LOG.warning("%s: the control variates are gone or old and start from zero", work.site.name)
    return RESET


def _nothing_counted(work: Work) -> bool:
    """Return whether no update of this silo has counted yet, and so there is nothing to remember of one."""
    return 1 in (work.order.turn, work.order.lost)
