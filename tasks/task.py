"""What a task is: how a row of text becomes an example, what is asked, and how an answer is scored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from sys import intern
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Fields = tuple[tuple[str, ...], ...]  # of one of these groups a row must hold every field

TENTHS = 10
ASSISTANT = "assistant"


class Turn(NamedTuple):
    """What one side of a conversation said. What the assistant says is learned, all else is given."""

    role: str
    text: str


class Example(NamedTuple):
    """One piece of text to learn, in one language. ``prompt`` is given, ``text`` is learned; ``turns`` came before."""

    text: str
    lang: str
    prompt: str = ""
    source: str = ""
    doc: str = ""
    split: str = "train"
    turns: tuple[Turn, ...] = ()

    @property
    def learned(self) -> str:
        """Return all that is learned, the assistant's earlier turns too, as one text to count."""
        return "".join([t.text for t in self.turns if t.role == ASSISTANT] + [self.text])


class Site(NamedTuple):
    """What one silo holds, split once and for ever: train, validation and test never share a document."""

    name: str
    train: tuple[Example, ...]
    valid: tuple[Example, ...]
    test: tuple[Example, ...]


class Task(NamedTuple):
    """``read(row)`` gives the example of a row, or None where the row does not serve this task.

    ``score(answers, examples)`` gives the task's own scores by name, or is None where bits per byte say it all.
    Answers are written freely, or chosen among ``choices`` where there are any. ``fields`` says what a row must hold.
    """

    read: Callable[[Row], Example | None]
    score: Callable[[Sequence[str], Sequence[Example]], dict[str, float]] | None = None
    fields: Fields = (("text",),)
    choices: tuple[str, ...] = ()
    chat: bool = False  # examples hold turns, which the base's own chat template goes around


def example(
    row: Row, text: str, prompt: str = "", turns: tuple[Turn, ...] = (), key: str = ""
) -> Example:
    """Return the example of a row, with its language, source, document and split.

    The split of a row without a document is that of ``key``, or of the text learned.
    """
    doc = str(row.get("doc") or "") or (letters(key) if key else "")
    return Example(
        text=text,
        # Many examples have their language and their source in common.
        lang=intern(str(row["lang"])),
        prompt=prompt,
        source=intern(str(row.get("source") or "")),
        doc=doc,
        split=split(doc or letters(text), str(row.get("split") or "")),
        turns=turns,
    )


def worded(row: Row, name: str) -> str:
    """Return the text in a field of a row, empty where it has none; raises ``ValueError`` where it is no text."""
    found = row.get(name)
    if not isinstance(found, str | None):
        raise ValueError(f"its {name} is {found!r:.60}; give it as a text")
    return (found or "").strip()


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
