"""The silo's text: whether it can be read, in which languages it is, whether every split has some."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fl_client import corpus, spec
from fl_client.checks.check import Check, size
from fl_client.silo import Settings
from fl_client.volume import Volume
from tasks.task import Task

SPLITS = ("train", "valid", "test")
READERS = (
    "causal_lm()",
    "instruct()",
)  # a silo joins before it knows the tasks; one of these reads each row
EVERY = 5000  # rows between two words about progress


class Counted(NamedTuple):
    """The text of a silo by language, and its rows by split."""

    languages: dict[str, Volume]
    splits: dict[str, int]
    others: int = 0  # files that are none of text


def count(own: Settings, progress: Callable[[int], None]) -> Counted:
    """Return how much text the silo's folder holds, streamed; raises ``ConfigError`` where it cannot be read."""
    readers: list[Task] = [spec.build(name, "task") for name in READERS]
    languages: dict[str, Volume] = {}
    splits = dict.fromkeys(SPLITS, 0)
    for number, (place, row) in enumerate(corpus.placed(own.data), 1):
        if own.lang and row["lang"] == corpus.UNKNOWN:
            row["lang"] = own.lang
        held = languages.get(row["lang"], Volume())
        written = len(corpus.words(row).encode())
        languages[row["lang"]] = Volume(held.rows + 1, held.bytes + written)
        reader = next(task for task in readers if corpus.serves(row, task.fields))
        example = corpus.example(reader, place, row)
        if example is not None:
            splits[example.split] += 1
        if number % EVERY == 0:
            progress(number)
    return Counted(dict(sorted(languages.items())), splits, corpus.others(own.data))


def text(own: Settings, found: Counted, promised: tuple[str, ...]) -> Check:
    """Return whether the text serves: every row has a language, it is the kit's, and every split has some."""
    spoken = ", ".join(
        f"{lang} {held.rows:,} rows ({size(held.bytes)})" for lang, held in found.languages.items()
    )
    aside = f", {found.others:,} files of other kinds are not read" if found.others else ""
    if corpus.UNKNOWN in found.languages:
        rows = found.languages[corpus.UNKNOWN].rows
        remedy = f"put lang = 'as', or what it is, into silo.toml, or name folders of {own.data} after languages"
        return Check("text", False, f"{rows:,} rows of {own.data} name no language", remedy)
    if promised and not set(promised) & set(found.languages):
        what = f"{own.data} holds {spoken}, and the kit names {', '.join(promised)}"
        return Check("text", False, what, "correct data in silo.toml, or tell the coordinator")
    empty = [split for split in SPLITS if not found.splits[split]]
    if empty:
        what = f"{own.data} has no text for its {' and '.join(empty)} split ({spoken}{aside})"
        return Check(
            "text", False, what, "add text: of every ten texts about one is held out for each"
        )
    return Check("text", True, spoken + aside)
