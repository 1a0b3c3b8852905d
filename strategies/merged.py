"""The merged part of an adapter: products that went into the base for good, kept beside it as one frozen LoRA slice.

The base on disk never changes. Its silos hold W0 + s (B A + sum of all that was merged), and that sum is a stack of
factors named ``.merged``, whose rank grows with the rounds until it could hold any matrix of its shape; from then on
it is compressed without loss (Eckart and Young 1936). A hub remembers it for each group and sends it down beside the
adapter; nobody trains it and no silo sends it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from strategies.adapter import Adapter
from strategies.product import Factors, norm, stack, truncate
from strategies.strategy import Memory

A, B = ".lora_A.merged", ".lora_B.merged"


def beside(adapter: Adapter, memory: Memory) -> Adapter:
    """Return the adapter with the merged part that is remembered: what silos receive."""
    return adapter | {name: x for name, x in memory.items() if name.endswith((A, B))}


def held(adapter: Mapping[str, np.ndarray]) -> dict[str, Factors]:
    """Return the merged products by module; a factor without its other half raises ``KeyError``."""
    modules = sorted({n[: -len(A)] for n in adapter if n.endswith((A, B))})
    return {module: Factors(adapter[module + B], adapter[module + A]) for module in modules}


def grown(memory: Memory, added: Mapping[str, Factors]) -> Memory:
    """Return the memory with these products added to the merged part; a product of zero leaves it as it is."""
    before, after = held(memory), dict(memory)
    for module, product in added.items():
        if not norm(product):
            continue
        terms = [before[module]] if module in before else []
        whole = compressed(stack((1.0, one) for one in [*terms, product]))
        after[module + A] = np.ascontiguousarray(whole.a, np.float32)
        after[module + B] = np.ascontiguousarray(whole.b, np.float32)
    return after


def compressed(factors: Factors) -> Factors:
    """Return the same product with no more ranks than its shape can hold; one of fewer comes back as it is."""
    most = min(len(factors.b), factors.a.shape[1])
    if len(factors.a) <= most:
        return factors
    whole = truncate(factors, most)
    used = np.any(whole.b != 0, axis=0)
    return Factors(whole.b[:, used], whole.a[used])
