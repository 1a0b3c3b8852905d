"""Which guards fit which strategy, codec and silos: rules of ``combine.py``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from strategies.guards.guard import keep_all
from strategies.parts import Cohort, Parts, Refusal
from strategies.scope import SCOPES, Scope, code

# Than a group that is too small, the narrowest first.
WIDER = tuple(reversed([within for within in SCOPES if within != "silo"]))


class Group(NamedTuple):
    """A group of a scope, with the main language of each of its silos."""

    within: Scope
    name: str
    members: dict[str, str]


class Short(NamedTuple):
    """A group that has too few silos for a guard, and how many more a round would have to ask for it to have enough."""

    within: Scope
    lacks: int
    reason: str


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
    """C40: a group, or what a round of a sample has of it, of fewer silos than the guard needs to compare."""
    found = next(_short(parts, cohort), None)
    return found and Refusal("C40", found.reason, _enough(parts, cohort, found.within))


def guard_excludes_who_is_different(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C41: a silo whose language no other of its group holds, or is unknown, which looks hostile to who compares."""
    if not parts.guard.discards or parts.guard.accept_exclusion:
        return None
    for group in _groups(parts, cohort):
        apart = _apart(cohort, group.members)
        if apart and len(group.members) >= max(2, parts.guard.least):
            return Refusal(
                "C41",
                f"in the group {group.name} the guard cannot tell from a hostile silo: {', '.join(apart)}",
                "choose guard='norm_clip()', or give the guard accept_exclusion=True",
            )
    return None


def _groups(parts: Parts, cohort: Cohort) -> Iterator[Group]:
    for within in sorted(cohort.scopes(parts.strategy)):
        try:
            groups = cohort.groups(within)
        except ValueError:  # a language that the table does not hold: C61 and C62 say so
            continue
        yield from (Group(within, name, members) for name, members in groups.items())


def _short(parts: Parts, cohort: Cohort) -> Iterator[Short]:
    """Yield the groups of which a round may have fewer silos than the guard needs."""
    least, silos = parts.guard.least, len(cohort.languages)
    counted = parts.counted(silos)
    for within, name, members in _groups(parts, cohort):
        # Of a sample a group has at least those who are left when all others are in it.
        sure = max(0, counted - (silos - len(members)))
        if sure < least and least > 1:
            few = "" if sure == len(members) else f", of which a round may wait for only {sure}"
            has = f"{name} has {len(members)}{few}"
            reason = f"the guard needs {least} silos in each group and {has}"
            yield Short(within, least + silos - len(members) - counted, reason)


def _enough(parts: Parts, cohort: Cohort, within: Scope) -> str:
    """Return what to choose instead: only that after which neither C40 nor C41 refuses these silos."""

    def fits(changed: Parts) -> bool:
        excludes = guard_excludes_who_is_different(changed, cohort)
        return excludes is None and not any(_short(changed, cohort))

    ways = []
    if fits(parts._replace(counted=int)):
        sample = parts.counted(len(cohort.languages)) + max(s.lacks for s in _short(parts, cohort))
        ways.append(f"raise sample= in schedule to {sample} or more, ")
    scopes = parts.strategy.scopes
    for wide in WIDER:
        merged = {part: wide if own == within else own for part, own in scopes.items()}
        if fits(parts._replace(strategy=parts.strategy._replace(scopes=merged))):
            ways.append(f"merge by {wide!r} instead of {within!r}, ")
            break
    one = parts.guard._replace(least=parts.guard.fewest)
    if 0 < one.least < parts.guard.least and fits(parts._replace(guard=one)):
        ways.append("expect one hostile silo (f=1), ")
    last = "choose guard='norm_clip()' for groups of any size"
    return "".join([*ways, "or " if ways else "", last])


def _apart(cohort: Cohort, members: dict[str, str]) -> list[str]:
    """Return those of a group whom no other is like, each with why."""
    spoken = Counter(lang for silo in members for lang in cohort.spoken(silo))
    unknown = {silo: "its language is not known" for silo, lang in members.items() if lang == "und"}
    only = {
        silo: f"no other silo there holds {lang}"
        for silo, lang in members.items()
        if spoken[code(lang)] == 1
    }
    return [f"{silo} ({why})" for silo, why in sorted((only | unknown).items())]


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
