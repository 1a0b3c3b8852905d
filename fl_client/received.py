"""What a hub sent for a round, checked against what the study needs, and put into the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fl_client import merged, model
from fl_client.messages import Fault
from fl_client.model import Warm
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.strategy import Strategy

if TYPE_CHECKING:
    from fl_client.work import Work


def load(made: Warm, strategy: Strategy, work: Work) -> Adapter:
    """Return the adapter with which a round begins, now in the model.

    Raises ``Fault`` where the hub began from another start, or sent anything but what the round needs.
    """
    shared = algebra.pick(made.start, [n for n in made.start if strategy.scope(n) != "silo"])
    if work.order.start_sha256 != algebra.sha256(shared):
        raise Fault("basis_differs")
    wanted = {n for n in shared if strategy.changed(n, work.order.round)}
    slices = {n: x for n, x in work.received.items() if n.endswith(".merged")}
    expected = algebra.layout(algebra.pick(shared, wanted)) | algebra.layout(slices)
    allowed = not slices or strategy.mutates_base and work.order.after > 0
    if algebra.layout(work.received) != expected or not _sound(work.received) or not allowed:
        raise Fault("malformed", "the hub sent other tensors than this round needs")
    if not merged.fits(slices, shared):
        raise Fault("malformed", "the hub sent a merged part that does not fit the adapter")
    start = strategy.renewed(made.start, work.study.seed, work.order.round)
    adapter = start | work.received | algebra.under("private/", work.memory)
    model.write(made, adapter)
    return adapter


def _sound(adapter: Adapter) -> bool:
    return all(x.dtype == np.float32 and bool(np.isfinite(x).all()) for x in adapter.values())
