"""How rows lie in a file: a text a line (txt), an object a line (jsonl), or a table (csv, parquet).

Only parquet takes a library, ``datasets``, which takes a second and 90 MB to be there; it streams, so that no copy of
the text is left in a cache folder.
"""

from __future__ import annotations

import codecs
import csv
import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]

KINDS = {".txt": "text", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
FIELD = (1 << 31) - 1  # characters of a field of csv at most: what a C long holds everywhere


class Damaged(ValueError):
    """A file that cannot be read, and what is wrong with it."""


def kind(path: Path) -> str | None:
    """Return the kind of a file by its name, None for one that holds no rows."""
    return KINDS.get(Path(path.name.lower().removesuffix(".gz")).suffix)


def read(path: Path) -> Iterator[Row]:
    """Yield the rows of one file as they lie there; raises ``Damaged``."""
    known = kind(path) or ""
    if known != "parquet" and not _size_in_utf8(path):
        return
    readers = {"text": _texts, "json": _objects, "csv": _records}
    try:
        yield from readers.get(known, _table)(path)
    except Damaged:
        raise
    except Exception as error:  # whatever the reader of this format raises on a damaged file
        raise Damaged(f"{path} cannot be read as {known}: {type(error).__name__}") from error


def _texts(path: Path) -> Iterator[Row]:
    with _open(path) as stream:
        yield from ({"text": line.rstrip("\n")} for line in stream)


def _objects(path: Path) -> Iterator[Row]:
    with _open(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    yield _object(line)
                except (ValueError, RecursionError) as error:
                    raise Damaged(
                        f"{path} cannot be read as json: line {number} is no object"
                        f" ({type(error).__name__}); correct that line or take it out"
                    ) from error


def _object(line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is no object")
    if "\\u" in line:  # which may be half of a character, and no text is
        json.dumps(row, ensure_ascii=False).encode()
    return row


def _records(path: Path) -> Iterator[Row]:
    """Yield the rows of a csv file, every value the text that stands there."""
    csv.field_size_limit(FIELD)
    with _open(path, newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
            for number, fields in enumerate(filter(None, reader), 1):  # a blank line has no fields
                if len(fields) != len(header):
                    raise Damaged(
                        f"{path} row {number} (line {reader.line_num}) has {len(fields)} fields and"
                        f" the header {len(header)}; put double quotes around text with a comma"
                    )
                yield dict(zip(header, fields, strict=True))
        except csv.Error as error:
            raise Damaged(
                f"{path} cannot be read as csv: line {reader.line_num}: {error}"
            ) from error


def _open(path: Path, newline: str | None = None) -> IO[str]:
    unpacked: Any = gzip.open if _packed(path) else open
    stream: IO[str] = unpacked(path, "rt", encoding="utf-8-sig", newline=newline)
    return stream


def _packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _table(path: Path) -> Iterator[Row]:
    import datasets

    # It would tell a stranger that a file was read.
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.utils.logging.disable_progress_bar()
    # What is wrong with a file is ours to say.
    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    files = glob.escape(str(path))
    stream = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    return map(dict, stream)


def _size_in_utf8(path: Path) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    at = 0
    try:
        with gzip.open(path, "rb") if _packed(path) else path.open("rb") as stream:
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
