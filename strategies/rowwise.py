"""FedAvg whose token rows are averaged over the silos that have the token, row by row.

Where the input and the output of a base share their rows, training moves every row: those of tokens that a silo's text
holds towards what they mean, all others down, and Adam makes both steps alike. The mean over silos then undoes most of
what one of them learned of a token. Here a silo sends the rows of its own tokens alone, and each row is divided by the
weights of those who have the token, as submodels of recommenders are merged (Niu et al. 2020, arXiv 1911.02254). LoRA
averages as FedAvg does.

Who has a token is seen from what a silo sends: a row that is not zero, once. From then on it counts in that row, so a
codec may leave the row out in a round and send it later, as error feedback does. A row that is rounded to zero whole
in every round, as ``int4`` alone may do to a small one, is one that the silo does not have.

The price is that an update shows which of a public list of tokens occur in a silo's text, if not how often. Keep
``rows`` within the language, or choose fedavg(), where that is too much to tell.
"""

from __future__ import annotations

import numpy as np

from strategies import accumulate
from strategies import adapter as algebra
from strategies.adapter import Adapter, Array, part
from strategies.fedavg import fedavg
from strategies.strategy import Memory, Strategy, Weighted


def rowwise(lora: str = "everyone", rows: str = "language", private: int = 0) -> Strategy:
    """Average LoRA within its scope, and each token row over those silos of its scope whose text has the token."""
    plain = fedavg(lora=lora, rows=rows, private=private)
    return plain._replace(
        local=plain.local._replace(own_rows=True), aggregate=_aggregate, reduction="gather"
    )


def _aggregate(updates: list[Weighted], start: Adapter, memory: Memory) -> tuple[Adapter, Memory]:
    updates = sorted(updates, key=lambda one: one.silo)
    sent = ((one.weight, one.update) for one in updates)
    mean, told = accumulate.mean_of(sent, algebra.layout(start)), dict(memory)
    for name in (n for n in mean if part(n) == "rows"):
        everyone, own = np.zeros(len(mean[name])), np.zeros(len(mean[name]))
        for one in updates:
            held = np.any(one.update[name] != 0, axis=1) | _known(memory, one.silo, name, len(own))
            everyone += one.weight
            own += one.weight * held
            told[_key(one.silo, name)] = np.packbits(held)
        more = np.divide(everyone, own, out=np.zeros_like(own), where=own > 0)
        mean[name] = (mean[name] * more[:, None]).astype(np.float32)
    return mean, told


def _known(memory: Memory, silo: str, name: str, rows: int) -> Array:
    """Return of which rows a silo has sent numbers before."""
    packed = memory.get(_key(silo, name), np.zeros(-(-rows // 8), np.uint8))
    return np.unpackbits(packed, count=rows).astype(bool)


def _key(silo: str, name: str) -> str:
    return f"told/{silo}/{name}"
