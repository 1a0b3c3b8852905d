"""Settings that people edit: a flat TOML file with a comment above each key, taken from the key's description."""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fl_client.config import ConfigError, Scalar, Section
from fl_client.memory import write_whole

Kind = TypeVar("Kind", bound=Section)


def read(path: Path, kind: type[Kind], remedy: str) -> Kind:
    """Return the settings in a file; raises ``ConfigError``, which ends with ``remedy`` where there is no file."""
    return _read(path, kind, remedy)[1]


def _read(path: Path, kind: type[Kind], remedy: str) -> tuple[str, Kind]:
    try:
        text = path.read_text("utf-8")
        return text, kind.model_validate(tomllib.loads(text))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"there is no {path}; {remedy}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {sentence(error, kind)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def checked(kind: type[Kind], **values: Any) -> Kind:
    """Return the settings with these values, the rest at their defaults; raises ``ConfigError``."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(sentence(error, kind)) from None


def sentence(error: ValidationError, kind: type[Section]) -> str:
    """Return the first thing wrong with the values given for ``kind``, in plain words."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = get_close_matches(key, kind.model_fields, n=1, cutoff=0.5)
        known = ", ".join(kind.model_fields)
        return f"unknown key {key!r}; " + (
            f"did you mean {near[0]!r}?" if near else f"it has {known}"
        )
    if first["type"] == "missing":
        return f"{key!r} is missing"
    if first["type"] == "value_error":
        return f"{key}: {first['ctx']['error']}"
    return f"{key}={first['input']!r} is not allowed: {first['msg'][0].lower()}{first['msg'][1:]}"


def create(path: Path, settings: Section) -> None:
    """Write a new file with every key and its comment; raises ``ConfigError`` where there is one."""
    if path.exists():
        raise ConfigError(f"{path} is there already; it is not overwritten")
    write_whole(path, render(settings).encode())


def change(path: Path, settings: Section) -> None:
    """Bring a file to these settings: only lines whose value differs change, comments stay.

    Raises ``ConfigError`` where it cannot be read.
    """
    text, before = _read(path, type(settings), "it was there before")
    for key, value in settings.model_dump().items():
        if getattr(before, key) == value:
            continue
        line = f"{key} = {toml_value(value)}"
        there = re.search(rf"(?m)^[ \t]*{key}[ \t]*=.*$", text)
        text = (
            text[: there.start()] + line + text[there.end() :]
            if there
            else f"{text.rstrip()}\n{line}\n"
        )
    if settings != before:
        write_whole(path, text.encode())


def render(settings: Section) -> str:
    """Return settings as TOML, every key written out under its description."""
    blocks = [_comment(type(settings).__doc__ or "")]
    for key, field in type(settings).model_fields.items():
        blocks.append(
            f"{_comment(field.description or '')}{key} = {toml_value(getattr(settings, key))}\n"
        )
    return "\n".join(blocks)


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(" ".join(text.split()), 98))


def toml_value(value: Scalar) -> str:
    """Return a scalar as TOML writes it."""
    # TOML's basic strings are JSON's, but for DEL, which it wants escaped too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
