"""The silo's record of what left it: a JSON line for each message, written before its first byte goes out."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from fl_client import memory
from fl_client.config import ConfigError

FILE = "audit.jsonl"
TIME = '{"time": "'  # how every line begins
# as much of a time as is wanted
SINCE = re.compile(r"(\d{4}(-\d\d(-\d\d(T\d\d(:\d\d(:\d\d)?)?)?)?)?)?")


class Entry(NamedTuple):
    """One message that left: when (UTC, ISO), for which study and round if that is known, what, and its body."""

    time: str
    study: str
    round: str
    kind: str  # the path it was sent to
    bytes: int
    sha256: str


def entry(kind: str, body: bytes, study: str = "", round: str = "") -> Entry:
    """Return the entry of a message that leaves now."""
    return parcel(kind, len(body), hashlib.sha256(body).hexdigest(), study, round)


def parcel(kind: str, size: int, sha256: str, study: str = "", round: str = "") -> Entry:
    """Return the entry of a part of a parcel that leaves now: the bytes of the part, the hash of the whole."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return Entry(now, study, round, kind, size, sha256)


def append(folder: Path, entry: Entry) -> None:
    """Add a line to a silo's record; raises ``OSError`` where it cannot be written whole."""
    line = (json.dumps(entry._asdict()) + "\n").encode()
    handle = os.open(folder / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(handle).st_size
        if (
            size and os.pread(handle, 1, size - 1) != b"\n"
        ):  # a full disk or a power cut tore a line
            line = b"\n" + line
        if os.write(handle, line) != len(line):
            raise OSError("the record of what leaves could not be written whole")
        os.fsync(handle)  # what left before a power cut is on record after it
        if not size:
            memory.sync(folder / FILE)
    finally:
        os.close(handle)


def read(folder: Path, since: str = "") -> Iterator[Entry]:
    """Yield the entries from a time on (ISO, as much of it as wanted), oldest first; torn lines are left out."""
    path = folder / FILE
    if not path.exists():
        return
    start, end = len(TIME), len(TIME) + len(since)
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if not line.startswith(TIME) or line[start:end] < since:
                continue
            try:
                yield Entry(**json.loads(line))
            except (ValueError, TypeError):
                continue


def check(folder: Path) -> None:
    """Make a silo's record where there is none, durably; raise ``ConfigError`` where nothing can be written to it."""
    try:
        os.close(os.open(folder / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        # Whoever writes the first line may be killed before its name is durable.
        memory.sync(folder / FILE)
    except OSError as error:
        raise ConfigError(f"{folder / FILE} cannot be written: {error.strerror}") from None
