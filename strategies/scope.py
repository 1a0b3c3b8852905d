"""Who merges with whom: every part of an adapter has a scope.

``everyone``, ``family``, ``script``, ``language`` or ``silo`` (never sent). FedAvg inside a language,
share-A, family pooling and dual adapters are settings of this one mechanism.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Scope = Literal["everyone", "family", "script", "language", "silo"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


class Language(NamedTuple):
    """One row of the table of languages."""

    name: str
    family: str
    script: str


def scope(value: str, part: str) -> Scope:
    """Return ``value`` as a scope, or raise ``ValueError`` that names the part and what is allowed."""
    for known in SCOPES:
        if value == known:
            return known
    raise ValueError(f"{part}={value!r} is no scope; choose one of {', '.join(SCOPES)}")


@cache
def languages() -> dict[str, Language]:
    """Return name, family and script (ISO 15924) by language code."""
    table = json.loads((Path(__file__).parent / "languages.json").read_text("utf-8"))
    return {code: Language(*row) for code, row in table.items()}


def language(code: str) -> Language:
    """Return the row of one language; raises ``ValueError`` for a code that is not in the table."""
    if code not in languages():
        raise ValueError(f"language {code!r} is not in the table; known: {', '.join(languages())}")
    return languages()[code]


def scripts(spoken: Iterable[str]) -> str:
    """Return the scripts of these languages, sorted, commas between; languages not in the table are left out."""
    return ",".join(sorted({languages()[code].script for code in spoken if code in languages()}))


def group(within: Scope, lang: str, silo: str) -> str:
    """Return the group in which a silo of this language merges, a name fit for a folder."""
    if within == "everyone":
        return "everyone"
    if within == "language":
        return lang
    if within == "silo":
        return f"silo-{silo}"
    return f"{within}-{getattr(language(lang), within).lower()}"


def finest(scopes: set[Scope]) -> Scope:
    """Return the narrowest of these scopes."""
    return max(scopes, key=SCOPES.index)
