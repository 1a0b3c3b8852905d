"""What travels of a round's training: the strategy's last word on it, then the codec."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fl_client import memory, ranks, spec
from fl_client.messages import Fault
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.strategy import Strategy

if TYPE_CHECKING:
    from fl_client.work import Work

LOG = logging.getLogger("bhasha_fl.silo")


def encoded(work: Work, strategy: Strategy, delta: Adapter, kept: Adapter) -> Adapter:
    """Return what travels of an update; the silo's memory of this round is durable when it returns."""
    local = algebra.under("local/", work.memory) or strategy.local.init(delta)
    delta, local = strategy.local.finish(delta, local)
    codec = spec.codec(work.study.codec)
    vector = algebra.flatten(delta)
    residual = work.memory.get("residual", codec.init(vector.size))
    if residual.shape not in {vector.shape, (0,)}:
        LOG.warning("%s: the codec's residual does not fit and starts from zero", work.site.name)
        residual = codec.init(vector.size)
    try:
        wire, residual = codec.encode(vector, residual)
    except ValueError as error:
        raise Fault("not_finite", str(error)) from error
    kept = kept | {f"local/{n}": x for n, x in local.items()} | {"residual": residual}
    if ranks.first():
        memory.keep(work.home, work.order.round, kept, work.order.best)
    return wire
