"""How rows lie in a file: a text a line (txt), an object a line (jsonl), or a table (csv, parquet).

Lines take no library. Tables are read through ``datasets``, which takes a second and 90 MB to be there; it streams, so
that no copy of the text is left in a cache folder.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

KINDS = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
WORDS = ("text", "prompt", "response", "messages", "label", "lang", "en", "source", "doc", "split")
CSV: dict[str, Any] = {
    "encoding": "utf-8-sig",
    "keep_default_na": False,
    "converters": dict.fromkeys(WORDS, str),  # "007" and "nan" are text
}


class Damaged(ValueError):
    """A file that cannot be read, and what is wrong with it."""


def kind(path: Path) -> str | None:
    """Return the kind of a file by its name, None for one that holds no rows."""
    return KINDS.get(Path(path.name.removesuffix(".gz")).suffix)


def read(path: Path) -> Iterator[Row]:
    """Yield the rows of one file as they lie there; raises ``Damaged``."""
    known = kind(path) or ""
    if known != "parquet" and not _size_in_utf8(path):
        return
    try:
        yield from {"text": _texts, "json": _objects}.get(known, _table)(path)
    except Exception as error:  # whatever the reader of this format raises on a damaged file
        raise Damaged(f"{path} cannot be read as {known}: {type(error).__name__}") from error


def _texts(path: Path) -> Iterator[Row]:
    return ({"text": line.rstrip("\n")} for line in _lines(path))


def _objects(path: Path) -> Iterator[Row]:
    for line in _lines(path):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise TypeError("a line is no object")
            if "\\u" in line:  # which may be half of a character, and no text is
                json.dumps(row, ensure_ascii=False).encode()
            yield row


def _lines(path: Path) -> Iterator[str]:
    unpacked: Any = gzip.open if path.suffix == ".gz" else open
    with unpacked(path, "rt", encoding="utf-8-sig") as stream:
        yield from stream


def _table(path: Path) -> Iterator[Row]:
    import datasets

    # It would tell a stranger that a file was read.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.utils.logging.disable_progress_bar()
    # What is wrong with a file is ours to say.
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    known = kind(path) or ""
    options = CSV if known == "csv" else {}
    files = glob.escape(str(path))
    stream = datasets.load_dataset(
        known, data_files=files, split="train", streaming=True, **options
    )
    return map(dict, stream)


def _size_in_utf8(path: Path) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            while block := stream.read(1 << 20):
                decoder.decode(block)
                at += len(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise Damaged(
            f"{path} is not UTF-8 near byte {at + error.start}; save it as UTF-8"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    return at
