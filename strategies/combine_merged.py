"""What does not fit strategies that merge into the base: rules of ``combine.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from strategies.parts import Parts, Refusal


def merged_products_take_whole_steps(parts: Parts) -> Refusal | None:
    """C22: an outer optimizer that would step factors, where products are merged as they are."""
    if not parts.strategy.mutates_base or _is_mean(parts):
        return None
    return Refusal(
        "C22",
        "the strategy merges products into the base, and an outer optimizer only moves the factors beside it",
        "choose outer='mean()', or a strategy that leaves the base alone, such as flexlora()",
    )


def feedback_needs_one_basis(parts: Parts) -> Refusal | None:
    """C55: error feedback where the next round's numbers mean something else."""
    if not parts.strategy.restarts or not parts.codec.feedback:
        return None
    return Refusal(
        "C55",
        "every round restarts in another basis, and what the codec holds back belongs to the last one",
        "choose a codec without error feedback, such as int8()",
    )


def _is_mean(parts: Parts) -> bool:
    zero, one = {"x": np.zeros(1, np.float32)}, {"x": np.ones(1, np.float32)}
    moved, kept = parts.outer.step(zero, one, parts.outer.init(zero))
    return not kept and bool(moved["x"] == 1)


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    merged_products_take_whole_steps,
    feedback_needs_one_basis,
)
