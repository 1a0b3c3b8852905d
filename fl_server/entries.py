"""The roster on disk: one JSON file a silo, each written whole, all changed under one lock."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fl_client.certificates import write_private
from fl_client.config import ConfigError, Section
from fl_client.kit import Instant, Language
from fl_client.settings import sentence
from fl_client.silo import NAME, Name


class Entry(Section):
    """One silo on the roster. ``fingerprint`` is that of its public key, ``expires`` its kit's last moment."""

    name: Name
    languages: tuple[Language, ...]
    state: Literal["invited", "requested", "approved", "ejected"]
    token_sha256: str
    expires: Instant
    request: str = ""
    certificate: str = ""
    fingerprint: str = ""
    serial: str = ""
    changed: str = ""


def names(hub: Path) -> list[str]:
    """Return the names on the roster, sorted."""
    return sorted(path.stem for path in (hub / "roster").glob("*.json"))


def find(hub: Path, name: str) -> Entry | None:
    """Return the entry of a silo as it is on disk now, None where there is none.

    Raises ``ConfigError`` where its file is damaged.
    """
    if not NAME.fullmatch(name):
        return None
    path = _path(hub, name)
    try:
        entry = _parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ConfigError(f"{path} is damaged: {damage(error, Entry)}; put back a copy") from None
    if entry.name != name:
        raise ConfigError(f"{path} is the entry of {entry.name!r}; put back a copy")
    return entry


def damage(error: ValidationError, kind: type[Section]) -> str:
    """Return in plain words what is wrong with a file of JSON that should hold a ``kind``."""
    # Of what is no object, or cut short, the whole content would be shown as the value of no key.
    return sentence(error, kind) if error.errors()[0]["loc"] else "it holds no JSON object"


def keep(hub: Path, entry: Entry) -> Entry:
    """Write an entry durably and return it with the time of its change."""
    changed = datetime.now(UTC).isoformat(timespec="seconds")
    kept = Entry.model_validate(entry.model_dump() | {"changed": changed})
    write_private(_path(hub, kept.name), kept.model_dump_json(indent=1).encode())
    return kept


@contextmanager
def locked(hub: Path) -> Iterator[None]:
    """Hold the roster's lock: of several programs and threads, one changes it at a time."""
    folder = hub / "roster"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _path(hub: Path, name: str) -> Path:
    return hub / "roster" / f"{name}.json"


@lru_cache(maxsize=1024)
def _parse(content: bytes) -> Entry:
    return Entry.model_validate_json(content)
