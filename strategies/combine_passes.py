"""What does not fit strategies whose rounds have two passes: rules of ``combine.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies.guards.guard import keep_all
from strategies.parts import Parts, Refusal


def guard_does_not_see_sketches(parts: Parts) -> Refusal | None:
    """C47: a guard over updates, where only sketches of them come."""
    if not parts.strategy.passes or parts.guard.judge is keep_all:
        return None
    return Refusal(
        "C47",
        "a guard judges changes of LoRA factors, and of these silos send sketches only",
        "choose guard='none()', or strategy='flexlora()', which sees each silo's factors",
    )


def feedback_needs_one_sketch(parts: Parts) -> Refusal | None:
    """C58: error feedback where each pass sends numbers that mean something else."""
    if not parts.strategy.passes or not parts.codec.feedback:
        return None
    return Refusal(
        "C58",
        "every round draws another sketch, and what the codec holds back belongs to the last one",
        "choose a codec without error feedback, such as int8(), or strategy='flexlora()'",
    )


def sketch_holds_the_rank(parts: Parts) -> Refusal | None:
    """C59: sketches with fewer columns than the adapter has ranks, some of which would then never learn again."""
    passes = parts.strategy.passes
    if not passes or passes.size([parts.rank]) >= parts.rank:
        return None
    return Refusal(
        "C59",
        f"sketches of {passes.size([parts.rank])} columns cannot fill an adapter of rank {parts.rank}",
        f"give size={parts.rank} or more, or size=0 for the exact mean",
    )


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    guard_does_not_see_sketches,
    feedback_needs_one_sketch,
    sketch_holds_the_rank,
)
