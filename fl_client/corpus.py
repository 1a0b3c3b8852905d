"""Text that lies in a silo: a folder of txt, jsonl, csv or parquet files, read row by row.

A row is a plain dict with ``lang`` and the fields that a task needs, ``text`` for most. All that lies below the folder
is read, but what is hidden; a subfolder (``as/``, ``or/``, ``mni-Beng/``) or a file (``ne.txt``) names the language.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fl_client import formats
from fl_client.config import ConfigError
from fl_client.formats import Damaged, Row
from strategies.scope import CODE, languages
from tasks.task import Example, Fields, Task

Placed = tuple[str, Row]  # a row behind its file and number, as an error names them

UNKNOWN = "und"
WORDS = ("text", "prompt", "response")
ANY: Fields = (("text",), ("messages",), ("prompt", "response"))  # for whoever only counts


class CorpusError(ConfigError):
    """Text that cannot be used, with the file and what to do about it."""


def read(source: str | Path, fields: Fields = ANY) -> Iterator[Row]:
    """Yield the rows of a built-in corpus (``cldr``) or of every text file below a folder, in a fixed order.

    Raises:
        CorpusError: no such folder, no text in it, a file that is not UTF-8, a row without ``fields``.
    """
    return (row for _, row in placed(source, fields))


def placed(source: str | Path, fields: Fields = ANY) -> Iterator[Placed]:
    """Yield the same rows, each behind its file and number; raises ``CorpusError``."""
    if str(source) == "cldr":
        from fl_client import cldr

        for row in cldr.rows():
            _demand(row, fields, "cldr")
            yield "cldr", row
        return
    folder, found = Path(source), False
    for path in files(folder):
        for number, row in enumerate(rows(path, language_of(path, folder), fields), 1):
            found = True
            yield f"{path} row {number}", row
    if not found:
        raise CorpusError(f"{source} holds no text; put txt, jsonl, csv or parquet files in it")


def example(task: Task, place: str, row: Row) -> Example | None:
    """Return what a task reads in a row; a row that it refuses is named by its file and number."""
    try:
        return task.read(row)
    except ValueError as error:
        raise CorpusError(f"{place}: {error}") from None


def words(row: Row) -> str:
    """Return what is written in a row: its text, or else what its messages say, or what was asked and answered."""
    if isinstance(row.get("text"), str):
        return str(row["text"])
    messages = row.get("messages")
    if isinstance(messages, list) and messages:
        told = [str(m.get("content") or "") for m in messages if isinstance(m, dict)]
        return "\n".join(told)
    return str(messages or "\n".join(str(row.get(name) or "") for name in ("prompt", "response")))


def files(folder: Path) -> list[Path]:
    """Return the text files below ``folder``, sorted; raises ``CorpusError`` where a folder cannot be read."""
    if not folder.is_dir():
        raise CorpusError(f"no folder {folder}; give a folder of text files or the name 'cldr'")
    return [path for path in _below(folder) if _is_text(path)]


def others(source: str | Path) -> int:
    """Return how many files below a folder are none of text, none for the built-in corpus."""
    folder = Path(source)
    return sum(not _is_text(path) for path in _below(folder)) if folder.is_dir() else 0


def _is_text(path: Path) -> bool:
    return formats.kind(path) is not None and path.is_file()


def _below(folder: Path) -> list[Path]:
    """Return all files below a folder but hidden ones, sorted. A folder to which several links lead is read once."""

    def refuse(error: OSError) -> None:
        raise CorpusError(
            f"{error.filename} cannot be read: {error.strerror}; let this user read it, or take it"
            f" out of {folder}"
        ) from error

    found, seen = [], set()
    for place, inner, names in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place).stat()
        if (here.st_dev, here.st_ino) in seen:
            inner.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def language_of(path: Path, folder: Path) -> str:
    """Return the language that a file's place names: a subfolder, or else the file, or else the folder given."""
    within = path.relative_to(folder)
    named = [*within.parts[:-1], path.name.split(".")[0], folder.resolve().name]
    return next((name for name in named if is_language(name)), UNKNOWN)


def is_language(name: str) -> bool:
    """Return whether a name is a language code, with or without its script: as, mni-Beng."""
    code = name.split("-")[0]
    return bool(CODE.fullmatch(name)) and (code in languages() or code in _cldr())


@cache
def _cldr() -> frozenset[str]:
    from babel import Locale

    return frozenset(Locale("en").languages)


def rows(path: Path, lang: str = UNKNOWN, fields: Fields = ANY) -> Iterator[Row]:
    """Yield the rows of one file, checked; raises ``CorpusError``. ``lang`` is for rows that do not name theirs."""
    try:
        for number, row in enumerate(formats.read(path), 1):
            _demand(row, fields, f"{path} row {number}")
            yield _checked(row, path, number, lang)
    except Damaged as error:
        raise CorpusError(str(error)) from error


def serves(row: Row, fields: Fields) -> bool:
    """Return whether a row holds all fields of one of these groups; what is read as text must be text."""
    return any(
        all(isinstance(row.get(f), str) if f in WORDS else row.get(f) is not None for f in group)
        for group in fields
    )


def _demand(row: Row, fields: Fields, place: str) -> None:
    if not serves(row, fields):
        wanted = " or ".join(" with ".join(map(repr, group)) for group in fields)
        held = ", ".join(sorted(name for name in row if row[name] is not None)) or "nothing"
        raise CorpusError(f"{place} has no {wanted}; it has {held}")


def _checked(row: Row, path: Path, number: int, lang: str) -> Row:
    row["lang"] = row.get("lang") or lang
    if not (isinstance(row["lang"], str) and CODE.fullmatch(row["lang"])):
        raise CorpusError(
            f"{path} row {number} has lang={row['lang']!r}; use a code such as as, or mni-Beng"
        )
    row.setdefault("source", path.name.split(".")[0])
    return row
