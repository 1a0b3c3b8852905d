"""Which choices fit together. Every refusal has a code, the reason and what to choose instead.

One row a rule; ``refusals`` walks them all. A combination that passes is one that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from strategies import (
    combine_buffered,
    combine_codecs,
    combine_guards,
    combine_inner,
    combine_merged,
    combine_passes,
)
from strategies.parts import PROBES, Cohort, Parts, Refusal
from strategies.scope import code, grouped, languages

__all__ = ["Cohort", "Parts", "Refusal", "refusals"]


def refusals(parts: Parts, cohort: Cohort | None = None) -> list[Refusal]:
    """Return every reason why these parts cannot work together, or not for this cohort."""
    found = [rule(parts) for rule in RULES]
    if cohort is not None:
        found += [rule(parts, cohort) for rule in COHORT_RULES]
    return [refusal for refusal in found if refusal]


def gap_needs_training_alone(parts: Parts) -> Refusal | None:
    """C16: a weight by the gap to training alone where nobody trains alone."""
    if parts.alone or parts.weights.needs != "gap":
        return None
    return Refusal(
        "C16",
        "the weight looks at what silos reach alone, and alone.enabled=false: nobody tells",
        "set alone.enabled=true, or weigh by the loss itself with weights='qffl()'",
    )


def loss_needs_scores(parts: Parts) -> Refusal | None:
    """C17: a weight by losses of which only those of the untrained base are ever told in time."""
    if parts.scored or parts.weights.needs == "counts":
        return None
    return Refusal(
        "C17",
        "the weight follows losses, and silos are scored at most before the first round and after the last",
        "score more often, as with evaluate.every=1, or weigh by text with weights='bytes()'",
    )


def something_must_travel(parts: Parts) -> Refusal | None:
    """C60: no part of the adapter is both shared and trained."""
    if any(parts.strategy.sent(name, r) for name in PROBES for r in (1, 2)):
        return None
    return Refusal(
        "C60",
        "every part of the adapter stays in its silo, so nothing is learned together",
        "give lora= or rows= a wider scope; what each silo reaches alone is in every report",
    )


def something_of_this_model_must_travel(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C60 again, for a model that has no trained token rows."""
    if something_must_travel(parts) or cohort.scopes(parts.strategy):
        return None
    return Refusal(
        "C60",
        "the only shared part of the strategy is one that this model does not train",
        "give lora= a wider scope, or train token rows with model.rows='scripts'",
    )


def language_scope_needs_a_language(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C61: a scope by language, family, script or grouping for a silo whose language is unknown."""
    narrow = cohort.scopes(parts.strategy) - {"everyone"}
    unknown = _silos(cohort, lambda lang: lang == "und") if narrow else []
    if not unknown:
        return None
    return Refusal(
        "C61",
        f"merging by {sorted(narrow)[0]} needs to know the language of {', '.join(unknown)}",
        "add a 'lang' field to the text, or name its folder after the language code",
    )


def family_scope_needs_the_table(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C62: a scope by family or script for a language that the table does not hold."""
    narrow = cohort.scopes(parts.strategy) & {"family", "script"}
    strange = _silos(cohort, lambda lang: lang not in {"und", *languages()}) if narrow else []
    if not strange:
        return None
    return Refusal(
        "C62",
        f"the {sorted(narrow)[0]} of the language of {', '.join(strange)} is not in the table",
        "merge by 'language' or 'everyone', or add the language to strategies/languages.json",
    )


def grouping_joins_languages_that_are_there(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C63: a grouping that names a language of no silo, most likely misspelt."""
    spoken = set(map(code, cohort.languages.values()))
    named = {
        lang
        for within in cohort.scopes(parts.strategy)
        for joined in grouped(within)
        for lang in joined
    }
    if named <= spoken:
        return None
    return Refusal(
        "C63",
        f"the grouping names {', '.join(sorted(named - spoken))}, which no silo here speaks",
        f"join only languages of these silos: {', '.join(sorted(spoken))}",
    )


def _silos(cohort: Cohort, wanted: Callable[[str], bool]) -> list[str]:
    return sorted(silo for silo, lang in cohort.languages.items() if wanted(lang))


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    gap_needs_training_alone,
    loss_needs_scores,
    something_must_travel,
    *combine_codecs.RULES,
    *combine_guards.RULES,
    *combine_merged.RULES,
    *combine_inner.RULES,
    *combine_passes.RULES,
    *combine_buffered.RULES,
)
COHORT_RULES: Iterable[Callable[[Parts, Cohort], Refusal | None]] = (
    something_of_this_model_must_travel,
    language_scope_needs_a_language,
    family_scope_needs_the_table,
    grouping_joins_languages_that_are_there,
    *combine_guards.COHORT_RULES,
    *combine_inner.COHORT_RULES,
)
