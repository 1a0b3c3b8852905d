"""What travels of a round's training: the strategy's last word on it, then the codec."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from fl_client import memory, ranks, spec
from fl_client.messages import Fault
from strategies import adapter as algebra
from strategies.adapter import Adapter, Array
from strategies.codecs.codec import Key
from strategies.strategy import Memory, Strategy

if TYPE_CHECKING:
    from fl_client.model import Warm
    from fl_client.work import Work
    from tasks.encode import Blocks

LOG = logging.getLogger("bhasha_fl.silo")
Told = dict[str, float]


def recalled(work: Work, strategy: Strategy, sent: Adapter, rates: float) -> Memory:
    """Return the memory of the strategy's silo half as a round begins, with what came down beside the adapter."""
    held: Memory = algebra.under("local/", work.memory) or strategy.local.init(sent)
    if not strategy.controls:
        return held
    return held | algebra.controls(work.received) | {"rates": np.array([rates], np.float32)}


def of_text(delta: Adapter, made: Warm, blocks: Blocks) -> Adapter:
    """Return an update with zeros in the token rows whose tokens are not in this text."""
    held = np.isin(made.peft_config["trainable_token_indices"] or [], blocks.ids)[:, None]
    return {n: x * held if algebra.part(n) == "rows" else x for n, x in delta.items()}


def encoded(
    work: Work, strategy: Strategy, delta: Adapter, local: Memory, kept: Adapter
) -> tuple[Adapter, Told]:
    """Return what travels of an update, and what the hub is told of its codec.

    The silo's memory of this round is durable when it returns.
    """
    delta, local = strategy.local.finish(delta, local)
    codec = spec.codec(work.study.codec)
    vector = algebra.flatten(delta)
    residual, told = _residual(work, codec.init(vector.size))
    try:
        key = Key(work.study.seed, work.order.round, work.site.name)
        wire, residual = codec.encode(vector, residual, key)
    except ValueError as error:
        raise Fault("not_finite", str(error)) from error
    kept = kept | {f"local/{n}": x for n, x in local.items()} | {"residual": residual}
    if ranks.first():
        memory.keep(work.home, work.order.round, kept, work.order.best)
    return wire, told


def _residual(work: Work, zero: Array) -> tuple[Array, Told]:
    """Return what the codec left out before; where that is gone or does not fit, zero, of which the hub hears (C50)."""
    held = work.memory.get("residual")
    if held is not None and held.shape == zero.shape:
        return held, {}
    if work.order.round == 1 or not zero.size:
        return zero, {}
    dropped = 0.0 if held is None else algebra.norm({"residual": held})
    LOG.warning(
        "%s: the codec's residual is gone or does not fit and starts from zero; dropped norm %g",
        work.site.name,
        dropped,
    )
    return zero, {"codec_reset": 1.0}
