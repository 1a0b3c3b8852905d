"""Which choices fit together. Every refusal has a code, the reason and what to choose instead.

One row a rule; ``refusals`` walks them all. A combination that passes is one that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from strategies.codecs.codec import Chain
from strategies.outer.outer import Outer
from strategies.scope import languages
from strategies.strategy import Strategy
from strategies.weights.weight import Weight


class Parts(NamedTuple):
    """The choices of a study that concern updates."""

    strategy: Strategy
    weights: Weight
    outer: Outer
    codec: Chain
    alone: bool = True  # silos also train alone, and tell what they reach
    scored: bool = True  # silos are scored again between the first round and the last


class Cohort(NamedTuple):
    """What is known of the silos when a study begins: each silo's main language, and the tensors trained."""

    languages: dict[str, str]
    tensors: tuple[str, ...]


class Refusal(NamedTuple):
    """Why a combination cannot work, and what to choose instead."""

    code: str
    reason: str
    instead: str

    def __str__(self) -> str:
        """One sentence with the code in it."""
        return f"{self.reason} [{self.code}]; {self.instead}"


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
        "the weight follows losses, and silos are scored only before the first round and after the last",
        "lower evaluate.every, or weigh by text with weights='bytes()'",
    )


def narrow_codec_must_come_last(parts: Parts) -> Refusal | None:
    """C52: a codec after one whose values are no longer float32."""
    if not any(link.narrows for link in parts.codec.links[:-1]):
        return None
    return Refusal(
        "C52",
        "a codec that narrows numbers (float16, bfloat16, int8) is followed by another codec",
        "put the narrowing codec last, as in 'topk(0.05) | int8()'",
    )


def sparsifier_only_once(parts: Parts) -> Refusal | None:
    """C53: two links that choose coordinates by their size."""
    if sum(link.support_depends_on_data for link in parts.codec.links) < 2:
        return None
    return Refusal(
        "C53",
        "the codec chain selects the largest coordinates twice",
        "use one topk() with the product of both densities",
    )


def something_must_travel(parts: Parts) -> Refusal | None:
    """C60: no part of the adapter is both shared and trained."""
    names = ("x.lora_A.weight", "x.lora_B.weight", "x.trainable_tokens_delta")
    if any(parts.strategy.sent(name, r) for name in names for r in (1, 2)):
        return None
    return Refusal(
        "C60",
        "every part of the adapter stays in its silo, so nothing is learned together",
        "give lora= or rows= a wider scope; what each silo reaches alone is in every report",
    )


def something_of_this_model_must_travel(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C60 again, for a model that has no trained token rows."""
    if something_must_travel(parts) or _scopes(parts, cohort):
        return None
    return Refusal(
        "C60",
        "the only shared part of the strategy is one that this model does not train",
        "give lora= a wider scope, or train token rows with model.rows='scripts'",
    )


def language_scope_needs_a_language(parts: Parts, cohort: Cohort) -> Refusal | None:
    """C61: a scope by language, family or script for a silo whose language is unknown."""
    narrow = _scopes(parts, cohort) & {"language", "family", "script"}
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
    narrow = _scopes(parts, cohort) & {"family", "script"}
    strange = _silos(cohort, lambda lang: lang not in {"und", *languages()}) if narrow else []
    if not strange:
        return None
    return Refusal(
        "C62",
        f"the {sorted(narrow)[0]} of the language of {', '.join(strange)} is not in the table",
        "merge by 'language' or 'everyone', or add the language to strategies/languages.json",
    )


def _scopes(parts: Parts, cohort: Cohort) -> set[str]:
    sent = (n for n in cohort.tensors for r in (1, 2) if parts.strategy.sent(n, r))
    return {parts.strategy.scope(name) for name in sent}


def _silos(cohort: Cohort, wanted: Callable[[str], bool]) -> list[str]:
    return sorted(silo for silo, lang in cohort.languages.items() if wanted(lang))


RULES: Iterable[Callable[[Parts], Refusal | None]] = (
    gap_needs_training_alone,
    loss_needs_scores,
    narrow_codec_must_come_last,
    sparsifier_only_once,
    something_must_travel,
)
COHORT_RULES: Iterable[Callable[[Parts, Cohort], Refusal | None]] = (
    something_of_this_model_must_travel,
    language_scope_needs_a_language,
    family_scope_needs_the_table,
)
