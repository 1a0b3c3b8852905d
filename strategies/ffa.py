"""FFA-LoRA: A stays at its start, only B is trained and averaged (Sun et al. 2024, arXiv 2403.12313).

The mean of the products is then exactly the product of the means. But what is learned never leaves the rows of A, so
which rows they are matters more than for LoRA. Departs from the paper, which leaves A at its random start, in that
``init`` chooses: ``seed``, that start; ``orthonormal``, rows drawn at right angles. Neither travels: every silo
makes it from the study's seed. ``gradsketch``: the leading directions of the silos' summed first gradients
(``survey.py``), in the scope of B. All three have rows of the norm of LoRA's start.
"""

from __future__ import annotations

import numpy as np

from strategies.adapter import Adapter, Array, part
from strategies.fedavg import fedavg
from strategies.strategy import Strategy
from strategies.subspace import KAIMING, basis, leading
from strategies.survey import Survey

INITS = ("seed", "orthonormal", "gradsketch")


def ffa(
    lora: str = "everyone", rows: str = "language", private: int = 0, init: str = "seed"
) -> Strategy:
    """Average B and token rows within their scopes; A is frozen and common.

    Args:
        lora: scope of B, and of the gradients that ``init='gradsketch'`` sums.
        rows: scope of the trained token rows.
        private: rank of a second adapter that stays in the silo; 0 for none.
        init: where A stays: 'seed' or 'orthonormal', the same for everyone, or 'gradsketch', chosen from data.
    """
    if init not in INITS:
        raise ValueError(f"{init=} is no start of A; choose one of {', '.join(INITS)}")
    chosen = init == "gradsketch"
    if chosen and lora == "silo":
        raise ValueError(
            "lora='silo' sums no gradients for init='gradsketch'; choose a wider scope or 'orthonormal'"
        )

    def trainable(name: str, round_number: int) -> bool:
        return part(name) != "A"

    plain = fedavg(lora=lora, a="" if chosen else "everyone", rows=rows, private=private)
    made = plain._replace(local=plain.local._replace(trainable=trainable))
    if chosen:
        return made._replace(survey=Survey(("A",), _found))
    return made._replace(fixed=("A",), begin=_drawn) if init == "orthonormal" else made


def _drawn(name: str, shape: tuple[int, ...], key: str) -> Array:
    return basis(shape, f"{key}:{name}") * np.float32(KAIMING)


def _found(sketches: Adapter, start: Adapter, key: str) -> Adapter:
    chosen = {
        name: leading(sketches[name], len(x)) * np.float32(KAIMING)
        if name in sketches
        else _drawn(name, x.shape, key)
        for name, x in start.items()
        if part(name) == "A"
    }
    return start | chosen
