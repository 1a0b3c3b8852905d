"""Control variates at the hub: each group's is the mean of its silos' own, held beside the adapter as NAME.control.

Silos send by how much their own changed. The mean is over all silos of the group: one that did not answer kept its own.
No guard, no outer optimizer and no strategy's ``aggregate`` ever sees them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from strategies import accumulate
from strategies import adapter as algebra
from strategies.accumulate import Sum
from strategies.adapter import CONTROL, Adapter
from strategies.strategy import Strategy


def beside(strategy: Strategy, shared: Adapter) -> Adapter:
    """Return the shared tensors with their control variates, at zero, where the strategy has some."""
    return shared | {
        own: np.zeros_like(shared[name]) for own, name in strategy.beside(shared).items()
    }


def empty(adapter: Adapter, sent: Iterable[str]) -> Sum:
    """Return the sum of nothing for the control variates among the tensors sent."""
    names = [name for name in sent if name.endswith(CONTROL)]
    return accumulate.empty(algebra.layout(algebra.pick(adapter, names)))


def add(running: Sum, update: Mapping[str, algebra.Array], weight: float) -> Sum:
    """Return the sum with a silo's changes added; those it did not send are zero."""
    if not running.totals:
        return running
    changes = {
        name: update.get(name, np.zeros(total.shape, np.float32))
        for name, total in running.totals.items()
    }
    return accumulate.add(running, changes, weight)


def forgotten(adapter: Adapter) -> Adapter:
    """Return a group's tensors with all control variates at zero."""
    return {name: np.zeros_like(x) if name.endswith(CONTROL) else x for name, x in adapter.items()}


def moved(adapter: Adapter, running: Sum) -> Adapter:
    """Return a group's control variates after a round; nothing where it has none or nobody was added."""
    if not running.totals or not running.added:
        return {}
    return {name: adapter[name] + change for name, change in accumulate.mean(running).items()}
