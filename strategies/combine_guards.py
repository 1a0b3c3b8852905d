"""Which guards fit which strategy, codec and silos: rules of ``combine.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies.guards.guard import keep_all
from strategies.parts import Cohort, Parts, Refusal
from strategies.scope import code


def discarding_guard_needs_a_codec_without_memory(parts: Parts) -> Refusal | None:
    """C42: a guard that may set an update aside, over a codec under error feedback."""
    if not parts.guard.discards or not parts.codec.feedback:
        return None
    return Refusal(
        "C42",
        "the codec counts on it that what a silo sent was merged, and the guard may set it aside",
        "choose a codec without error feedback, such as int8(), or guard='norm_clip()'",
    )


def guard_needs_one_start(parts: Parts) -> Refusal | None:
    """C43: a guard over parts that are merged in two scopes at once."""
    if parts.guard.judge is keep_all or not parts.strategy.wider:
        return None
    return Refusal(
        "C43",
        "a pooled part starts from a mixture of two groups, so a guard has no common start to compare from",
        "merge it in one scope, as in fedavg(lora='family'), or choose guard='none()'",
    )


def guard_mixes_no_own_rows(parts: Parts) -> Refusal | None:
    """C49: a guard that takes the middle of each number, where most silos lack a token and send zeros for its row."""
    if not parts.guard.mixes or not parts.strategy.local.own_rows:
        return None
    return Refusal(
        "C49",
        "silos without a token send zeros for its row, and to a guard that merges number by number they are the middle",
        "choose guard='norm_clip()' or 'multi_krum()', or strategy='fedavg()'",
    )


def guard_leaves_factors_apart(parts: Parts) -> Refusal | None:
    """C67: a guard that merges before the strategy does, where this needs the factors of each silo."""
    if not parts.guard.mixes or not parts.strategy.mutates_base or parts.strategy.restarts:
        return None
    return Refusal(
        "C67",
        "the strategy merges into the base what the mean of factors leaves out, and of a median or a trimmed mean "
        "nothing is left out",
        "choose a guard that leaves updates as they are, such as 'multi_krum()', or strategy='fedavg()'",
    )


def guard_needs_enough_silos(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C40: a group, or a round of a sample, of fewer silos than the guard needs to tell one from the others."""
    counted = parts.counted(len(cohort.languages))
    if counted < min(parts.guard.least, len(cohort.languages)):
        return Refusal(
            "C40",
            f"the guard needs {parts.guard.least} silos in each round, and the schedule waits for {counted}",
            f"raise sample= in schedule to {parts.guard.least} or more, or choose guard='norm_clip()'",
        )
    for name, members in _groups(parts, cohort):
        # Of a sample a group has at least those who are left when all others are in it.
        sure = max(0, counted - (len(cohort.languages) - len(members)))
        if sure < parts.guard.least and parts.guard.least > 1:
            few = "" if sure == len(members) else f", of which a round may wait for only {sure}"
            return Refusal(
                "C40",
                f"the guard needs {parts.guard.least} silos in each group and {name} has {len(members)}{few}",
                "merge in a wider scope, expect fewer hostile silos, or choose guard='norm_clip()'",
            )
    return None


def guard_excludes_who_is_different(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C41: an only silo of its language among others, which looks hostile to a guard that compares."""
    if not parts.guard.discards or parts.guard.accept_exclusion:
        return None
    for name, members in _groups(parts, cohort):
        spoken = list(map(code, members.values()))
        only = [silo for silo, lang in members.items() if spoken.count(code(lang)) == 1]
        if only and len(members) >= max(2, parts.guard.least):
            return Refusal(
                "C41",
                f"in the group {name} the guard cannot tell {', '.join(only)}, the only silo of its language, "
                "from a hostile one",
                "merge by 'language', choose guard='norm_clip()', or give the guard accept_exclusion=True",
            )
    return None


def _groups(parts: Parts, cohort: Cohort) -> Iterable[tuple[str, dict[str, str]]]:
    for within in sorted(cohort.scopes(parts.strategy)):
        try:
            yield from cohort.groups(within).items()
        except ValueError:  # a language that the table does not hold: C61 and C62 say so
            continue


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    discarding_guard_needs_a_codec_without_memory,
    guard_needs_one_start,
    guard_mixes_no_own_rows,
    guard_leaves_factors_apart,
)
COHORT_RULES: Iterable[Callable[[Parts, Cohort], Refusal | None]] = (
    guard_needs_enough_silos,
    guard_excludes_who_is_different,
)
