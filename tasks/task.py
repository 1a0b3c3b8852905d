"""What a task is: how a row of text becomes an example, what is asked, and how an answer is scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]

TENTHS = 10


class Example(NamedTuple):
    """One piece of text to learn, in one language. ``prompt`` is given, ``text`` is learned."""

    text: str
    lang: str
    prompt: str = ""
    source: str = ""
    doc: str = ""
    split: str = "train"


class Site(NamedTuple):
    """What one silo holds, split once and for ever: train, validation and test never share a document."""

    name: str
    train: tuple[Example, ...]
    valid: tuple[Example, ...]
    test: tuple[Example, ...]


class Task(NamedTuple):
    """``read(row)`` gives the example of a row, or None where the row does not serve this task.

    ``score(answers, examples)`` gives the task's own score by name, or is None where bits per byte say it all.
    """

    read: Callable[[Row], Example | None]
    score: Callable[[Sequence[str], Sequence[Example]], dict[str, float]] | None = None


def example(row: Row, text: str, prompt: str = "") -> Example:
    """Return the example of a row, with its language, source, document and split."""
    doc = str(row.get("doc") or "")
    return Example(
        text=text,
        lang=str(row["lang"]),
        prompt=prompt,
        source=str(row.get("source") or ""),
        doc=doc,
        split=split(doc or letters(text), str(row.get("split") or "")),
    )


def split(key: str, given: str) -> str:
    """Return ``train``, ``valid`` or ``test``, by the hash of a document or of a text's letters.

    A split that the row brings is kept, but a tenth of its ``train`` becomes ``valid``.
    """
    if given not in {"", "train", "valid", "validation", "dev", "test"}:
        raise ValueError(f"split={given!r} is unknown; use train, valid (validation, dev) or test")
    tenth = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % TENTHS
    if given in {"valid", "validation", "dev"}:
        return "valid"
    if given == "test" or (not given and tenth == 1):
        return "test"
    return "valid" if tenth == 0 else "train"


def letters(text: str) -> str:
    """Return the first 24 letters of a text, case folded: near-identical strings share them."""
    return "".join(c for c in text.casefold() if c.isalpha())[:24] or text
