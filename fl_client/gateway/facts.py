"""Numbers and facts that may leave: of those that a policy names, what can be nothing else than what it is called.

A policy names them. Here their values are looked at, and what stands in a name for a ``*``: neither holds any text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from fl_client import metrics, policy
from fl_client.policy import Egress
from strategies.scope import CODE
from strategies.weights.weight import MOST, Counts

SHA256 = re.compile(r"[0-9a-f]{64}")
MODULE = re.compile(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,20}")  # as PEFT names modules
MOST_RANK = 1024


def number(name: str, egress: Egress) -> bool:
    """Return whether a number of this name may leave."""
    return any(fnmatchcase(name, pattern) and _filled(name, pattern) for pattern in egress.metrics)


def _filled(name: str, pattern: str) -> bool:
    """Return whether a name has words of its pattern, and else languages, processes and words of ours."""
    own = pattern.split("/")
    return all(
        part in own or part in metrics.WORDS or part in metrics.RANKS or CODE.fullmatch(part)
        for part in name.split("/")
    )


def fact(name: str, value: Any, egress: Egress, silo: str) -> bool:
    """Return whether a fact of this name and value may leave the silo of that name."""
    if name == "silo":
        return policy.matches(name, egress.facts) and value == silo
    return name in FACTS and policy.matches(name, egress.facts) and FACTS[name](value)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST


def _languages(value: Any) -> bool:
    return isinstance(value, dict) and all(
        CODE.fullmatch(lang)
        and isinstance(row, list)
        and len(row) == len(Counts._fields)
        and all(map(_count, row))
        for lang, row in value.items()
    )


def _modules(value: Any) -> bool:
    names = value.get("target_modules") if isinstance(value, dict) and len(value) == 1 else None
    return isinstance(names, list) and all(
        isinstance(name, str) and MODULE.fullmatch(name) for name in names
    )


FACTS: dict[str, Callable[[Any], bool]] = {
    "round": _count,
    "languages": _languages,
    "base": lambda value: isinstance(value, str) and bool(SHA256.fullmatch(value)),
    "rank": lambda value: _count(value) and value <= MOST_RANK,
    "peft": _modules,
    "served": lambda value: isinstance(value, str) and value in metrics.CANDIDATES,
    "alone_lr": lambda value: value is None or type(value) is float and math.isfinite(value),
}
