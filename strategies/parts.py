"""The choices of a study that concern updates, what is known of its silos, and why some do not fit together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from strategies.codecs.codec import Chain, chain
from strategies.guards.guard import Guard
from strategies.outer.outer import Outer
from strategies.scope import Scope, code, group
from strategies.strategy import Strategy
from strategies.weights.weight import Weight

WHOLE = chain([])  # float32, as it is
PROBES = (
    "x.lora_A.weight",
    "x.lora_B.weight",
    "x.lora_B.core",
    "x.trainable_tokens_delta",
)  # a tensor of each part


class Parts(NamedTuple):
    """The choices of a study that concern updates."""

    strategy: Strategy
    weights: Weight
    outer: Outer
    codec: Chain
    guard: Guard = Guard()
    alone: bool = True  # silos also train alone, and tell what they reach
    scored: bool = True  # silos are scored again between the first round and the last
    adaptive: bool = False  # silos train with AdamW, whose steps are no multiples of gradients
    rank: int = 1  # of the study's LoRA pairs
    broadcast: Chain = WHOLE  # how the hub's adapter travels to silos
    counted: Callable[[int], int] = int  # of so many silos, how many a round waits for
    buffered: bool = False  # silos do not wait for each other, and updates may be of an adapter of some commits ago


class Cohort(NamedTuple):
    """What is known of the silos when a study begins: each silo's main language, and the tensors trained.

    ``ranks`` holds those silos alone whose LoRA rank is below the study's, ``held`` all languages of each silo of which
    more than the main one is known.
    """

    languages: dict[str, str]
    tensors: tuple[str, ...]
    ranks: Mapping[str, int] = {}
    held: Mapping[str, Iterable[str]] = {}

    def scopes(self, strategy: Strategy) -> set[Scope]:
        """Return all scopes within which something of this study is merged in its first two rounds."""
        sent = {name for name in self.tensors for r in (1, 2) if strategy.sent(name, r)}
        return {within for name in sent for within in strategy.within(name)}

    def spoken(self, silo: str) -> set[str]:
        """Return the codes of the languages that a silo holds, as far as they are known."""
        return set(map(code, (self.languages[silo], *self.held.get(silo, ()))))

    def groups(self, within: Scope) -> dict[str, dict[str, str]]:
        """Return the language of each silo by group of a scope, groups by name."""
        found: dict[str, dict[str, str]] = {}
        for silo, lang in sorted(self.languages.items()):
            found.setdefault(group(within, lang, silo), {})[silo] = lang
        return dict(sorted(found.items()))


class Refusal(NamedTuple):
    """Why a combination cannot work, and what to choose instead."""

    code: str
    reason: str
    instead: str

    def __str__(self) -> str:
        """One sentence with the code in it."""
        return f"{self.reason} [{self.code}]; {self.instead}"
