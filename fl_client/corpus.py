"""Text that lies in a silo: a folder of txt, jsonl, csv or parquet files, read row by row.

Rows are streamed through ``datasets`` so that no copy of the text is left in a cache folder. A row is
a plain dict with at least ``text`` and ``lang``. In a folder with one subfolder a language
(``as/``, ``or/``, ``mni-Beng/``) the subfolder names the language and only those subfolders are read.
"""

from __future__ import annotations

import codecs
import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fl_client.config import ConfigError

Row = dict[str, Any]

LOADERS = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?")
UNKNOWN = "und"


class CorpusError(ConfigError):
    """Text that cannot be used, with the file and what to do about it."""


def read(source: str | Path) -> Iterator[Row]:
    """Yield the rows of a built-in corpus (``cldr``) or of every text file below a folder, in a fixed order.

    Raises:
        CorpusError: no such folder, no text in it, a file that is not UTF-8, a row without ``text``.
    """
    if str(source) == "cldr":
        from fl_client import cldr

        yield from cldr.rows()
        return
    found = False
    for path in files(Path(source)):
        for row in rows(path):
            found = True
            yield row
    if not found:
        raise CorpusError(f"{source} holds no text; put txt, jsonl, csv or parquet files in it")


def files(folder: Path) -> list[Path]:
    """Return the text files below ``folder``, sorted; only language subfolders where there are any."""
    if not folder.is_dir():
        raise CorpusError(f"no folder {folder}; give a folder of text files or the name 'cldr'")
    languages = [p for p in folder.iterdir() if p.is_dir() and LANGUAGE.fullmatch(p.name)]
    within = sorted(languages) or [folder]
    return [p for top in within for p in sorted(top.rglob("*")) if p.is_file() and _kind(p)]


def _kind(path: Path) -> str | None:
    name = path.name.removesuffix(".gz")
    return LOADERS.get(Path(name).suffix)


def _language_of(path: Path) -> str:
    for name in (path.parent.name, path.name.split(".")[0]):
        if LANGUAGE.fullmatch(name):
            return name
    return UNKNOWN


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of one file, checked; raises ``CorpusError``."""
    import datasets

    kind = _kind(path)
    if kind != "parquet":
        _check_utf8(path)
    lang = _language_of(path)
    options = {"keep_default_na": False} if kind == "csv" else {}
    try:
        rows = datasets.load_dataset(
            kind, data_files=str(path), split="train", streaming=True, **options
        )
        for number, row in enumerate(rows, 1):
            yield _checked(dict(row), path, number, lang)
    except CorpusError:
        raise
    except Exception as error:  # whatever the reader of this format raises on a damaged file
        raise CorpusError(f"{path} cannot be read as {kind}: {type(error).__name__}") from error


def _checked(row: Row, path: Path, number: int, lang: str) -> Row:
    if not isinstance(row.get("text"), str):
        raise CorpusError(f"{path} row {number} has no 'text'; it has {', '.join(sorted(row))}")
    row["lang"] = row.get("lang") or lang
    if not (isinstance(row["lang"], str) and LANGUAGE.fullmatch(row["lang"])):
        raise CorpusError(
            f"{path} row {number} has lang={row['lang']!r}; use a code such as as, or mni-Beng"
        )
    row.setdefault("source", path.name.split(".")[0])
    return row


def _check_utf8(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
        try:
            while block := stream.read(1 << 20):
                decoder.decode(block)
                at += len(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{path} is not UTF-8 near byte {at + error.start}; save it as UTF-8"
            ) from error
        except (OSError, EOFError) as error:
            raise CorpusError(f"{path} is damaged: {error}") from error
