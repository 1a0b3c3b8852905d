"""What fits how silos train inside: rules of ``combine.py`` on optimizers, control variates, surveys and ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies.guards.guard import keep_all
from strategies.parts import Cohort, Parts, Refusal


def controls_need_plain_steps(parts: Parts) -> Refusal | None:
    """C32: control variates where the inner optimizer rescales each coordinate's gradient."""
    if not parts.strategy.controls or not parts.adaptive:
        return None
    return Refusal(
        "C32",
        "the strategy reads a silo's mean gradient off how far it went, and AdamW's steps are no multiple of it",
        "set train.optimizer='sgd' with a higher train.lr, or choose strategy='fedprox()'",
    )


def controls_need_constant_weights(parts: Parts) -> Refusal | None:
    """C33: control variates under weights that change, so that sums of changes are no change of the sum."""
    if not parts.strategy.controls or parts.weights.needs == "counts":
        return None
    return Refusal(
        "C33",
        "everyone's control variate is a mean with the study's weights, and these change from round to round",
        "weigh by text with weights='bytes()', or equally with weights='uniform()'",
    )


def controls_travel_whole(parts: Parts) -> Refusal | None:
    """C56: a codec that chooses coordinates among updates and control variates, which differ in scale."""
    if not parts.strategy.controls or not parts.codec.feedback:
        return None
    return Refusal(
        "C56",
        "control variates are of the size of gradients, so topk() or randk() would hold back or crowd out the update",
        "choose a codec that sends all numbers, such as bfloat16() or int8()",
    )


def guard_does_not_see_controls(parts: Parts) -> Refusal | None:
    """C44: a guard over updates, beside which control variates go unguarded."""
    if not parts.strategy.controls or parts.guard.judge is keep_all:
        return None
    return Refusal(
        "C44",
        "a guard judges updates, and one silo's control variate steers all others unjudged",
        "choose guard='none()', or a strategy without control variates such as fedprox()",
    )


def guard_does_not_see_a_survey(parts: Parts) -> Refusal | None:
    """C46: a guard over updates, before which sketches go unguarded."""
    if parts.strategy.survey is None or parts.guard.judge is keep_all:
        return None
    return Refusal(
        "C46",
        "a guard judges updates, and one silo's sketch of its gradient steers the subspace of all others unjudged",
        "choose guard='none()', or strategy=\"ffa(init='orthonormal')\", which asks silos for nothing",
    )


def mixed_ranks_need_a_strategy_for_them(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C20: silos of a lower rank than the study's, where factors of one rank are averaged."""
    if parts.strategy.mixed_ranks or not cohort.ranks:
        return None
    told = ", ".join(f"{silo} (rank {rank})" for silo, rank in sorted(cohort.ranks.items()))
    return Refusal(
        "C20",
        f"this strategy averages LoRA factors of the study's rank, which is above that of {told}",
        "choose strategy='flexlora()', 'flora()', 'sketch()' or 'hetlora()', "
        f"or set model.rank={min(cohort.ranks.values())}",
    )


def guard_needs_one_rank(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C45: a guard over updates of several ranks."""
    if parts.guard.judge is keep_all or not cohort.ranks:
        return None
    return Refusal(
        "C45",
        "a guard compares updates of one shape, and these silos have several LoRA ranks",
        f"choose guard='none()', or set model.rank={min(cohort.ranks.values())}",
    )


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    controls_need_plain_steps,
    controls_need_constant_weights,
    controls_travel_whole,
    guard_does_not_see_controls,
    guard_does_not_see_a_survey,
)
COHORT_RULES: Iterable[Callable[[Parts, Cohort], Refusal | None]] = (
    mixed_ranks_need_a_strategy_for_them,
    guard_needs_one_rank,
)
