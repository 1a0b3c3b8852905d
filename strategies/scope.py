"""Who merges with whom: every part of an adapter has a scope.

``everyone``, ``family``, ``script``, ``language`` or ``silo`` (never sent), or a grouping of one's own: in
``as+bn,hi+ne`` Assamese merges with Bengali and Hindi with Nepali. FedAvg inside a language, share-A, family
pooling and dual adapters are settings of this one mechanism.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

Scope = str  # one of SCOPES, or a grouping
SCOPES: tuple[Scope, ...] = ("everyone", "family", "script", "language", "silo")
CODE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?")  # a language, its script, its country


class Language(NamedTuple):
    """One row of the table of languages."""

    name: str
    family: str
    script: str


def scope(value: str, part: str) -> Scope:
    """Return ``value`` as a scope, or raise ``ValueError`` that names the part and what is allowed."""
    if value in SCOPES:
        return value
    if "+" in value or "," in value:
        return _grouping(value, part)
    raise ValueError(
        f"{part}={value!r} is no scope; choose one of {', '.join(SCOPES)}, or join languages as in 'as+bn,hi+ne'"
    )


def _grouping(value: str, part: str) -> Scope:
    spoken = [[lang.strip() for lang in joined.split("+")] for joined in value.split(",")]
    groups = [sorted(map(code, langs)) for langs in spoken]
    named = [lang for joined in groups for lang in joined]
    strange = [lang for lang in named if not CODE.fullmatch(lang) or lang == "und"]
    if strange:
        raise ValueError(
            f"{part}={value!r}: {strange[0]!r} is no language code; write groups as in 'as+bn,hi+ne'"
        )
    alone = [joined[0] for joined in groups if len(joined) == 1]
    if alone:
        raise ValueError(
            f"{part}={value!r} joins {alone[0]} with nothing; leave it out, a language in no group merges by itself"
        )
    twice = sorted({lang for lang in named if named.count(lang) > 1})
    if twice:
        raise ValueError(f"{part}={value!r} names {twice[0]} twice; put a language in one group")
    return ",".join(sorted("+".join(joined) for joined in groups))


def grouped(within: Scope) -> list[list[str]]:
    """Return the languages that a grouping joins, group by group; empty for any other scope."""
    return [joined.split("+") for joined in within.split(",")] if "+" in within else []


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


@cache
def _codes() -> dict[str, str]:
    """Return for each code of the table the shortest of the same language: ``ig`` for ``ibo``."""
    by_row: dict[Language, list[str]] = {}
    for code, row in languages().items():
        by_row.setdefault(row, []).append(code)
    return {code: min(same, key=len) for same in by_row.values() for code in same}


def code(lang: str) -> str:
    """Return the code by which silos of a language find each other, whichever of its codes each of them uses."""
    return _codes().get(lang, lang)


def scripts(spoken: Iterable[str]) -> str:
    """Return the scripts of these languages, sorted, commas between; languages not in the table are left out."""
    return ",".join(sorted({languages()[code].script for code in spoken if code in languages()}))


def group(within: Scope, lang: str, silo: str) -> str:
    """Return the group in which a silo of this language merges, a name fit for a folder."""
    if within == "everyone":
        return "everyone"
    if within == "silo":
        return f"silo-{silo}"
    if within in ("family", "script"):
        return f"{within}-{getattr(language(lang), within).lower()}"
    joined = next((joined for joined in grouped(within) if code(lang) in joined), [])
    return "-".join(["group", *joined]) if joined else code(lang)


def finest(scopes: set[Scope]) -> set[Scope]:
    """Return the narrowest of these scopes: several where a silo's place in one does not tell that in the other."""
    level = {"everyone": 0, "language": 2, "silo": 3}
    narrowest = max(level.get(within, 1) for within in scopes)
    return {within for within in scopes if level.get(within, 1) == narrowest}
