"""Together and alone mixed, as far as a silo's own validation text asks for (APFL, Deng et al. 2020, arXiv 2003.13461).

What is mixed are the changes to the base, s (share B_t A_t + (1 - share) B_a A_a): exact, and one plain adapter of both
ranks, in which what is not of the adapter together lies in a merged slice. Token rows are mixed as they are. Departs
from APFL, which mixes in training: here both have ended, so nothing is trained again and nothing more travels.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter, part
from strategies.fedsb import folded
from strategies.merged import A, B, compressed
from strategies.merged import held as merged
from strategies.product import Factors, modules, stack


def blended(together: Adapter, alone: Adapter, share: float) -> Adapter:
    """Return ``share`` of one adapter and the rest of the other, of the same tensors but for slices and cores."""
    together, alone = folded(together), folded(alone)
    mixed: Adapter = {}
    for name, x in together.items():
        if part(name) == "rows":
            mixed[name] = (share * x + (1 - share) * alone[name]).astype(np.float32)
        elif part(name) != "merged":
            mixed[name] = np.float32(share) * x if ".lora_B." in name else x
    kept, others = merged(together), merged(alone)
    for module in modules(together):
        terms = [(1 - share, own) for own in _products(alone, module)]
        terms += [(share, kept[module])] if module in kept else []
        terms += [(1 - share, others[module])] if module in others else []
        beside = compressed(stack(terms))
        mixed[module + A] = np.ascontiguousarray(beside.a, np.float32)
        mixed[module + B] = np.ascontiguousarray(beside.b, np.float32)
    return mixed


def _products(adapter: Adapter, module: str) -> list[Factors]:
    """Return the products of a module: the shared one, and a private one where there is one."""
    return [
        Factors(adapter[f"{module}.lora_B.{kind}"], adapter[f"{module}.lora_A.{kind}"])
        for kind in ("weight", "private")
        if f"{module}.lora_A.{kind}" in adapter
    ]
