"""How many token rows a study trains, counted from ``tokenizer.json`` without the library that reads it.

The rule is that of ``lora.token_rows``: single symbols, and tokens whose letters are all of the scripts asked for.
"""

from __future__ import annotations

import json
import unicodedata
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from fl_client.config import ConfigError

SCRIPT_NAMES = {
    "Arab": "ARABIC", "Beng": "BENGALI", "Deva": "DEVANAGARI", "Gujr": "GUJARATI", "Guru": "GURMUKHI",
    "Knda": "KANNADA", "Latn": "LATIN", "Mlym": "MALAYALAM", "Mtei": "MEETEI MAYEK",
    "Olck": "OL CHIKI", "Orya": "ORIYA", "Taml": "TAMIL", "Telu": "TELUGU",
}  # fmt: skip
MARKS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
LISTS = ("additional_special_tokens", "extra_special_tokens")


def count(folder: Path, scripts: str) -> int:
    """Return how many token rows are trained for these scripts (ISO 15924, commas between); raises ``ConfigError``."""
    known = names(scripts)
    return sum(wanted(symbol, text, known) for symbol, text in _vocabulary(folder))


def names(scripts: str) -> tuple[str, ...]:
    """Return what Unicode calls these scripts (ISO 15924, commas between), as its names of letters begin."""
    return tuple(SCRIPT_NAMES[s] for s in scripts.split(",") if s in SCRIPT_NAMES)


def wanted(symbol: str, text: str, names: tuple[str, ...]) -> bool:
    """Return whether the row of a token is trained: ``symbol`` is its entry, ``text`` what it stands for."""
    if len(symbol) == 1 or (symbol.startswith("<0x") and symbol.endswith(">")):
        return True
    letters = [c for c in text if c.isalpha() or unicodedata.category(c)[0] == "M"]
    return bool(names and letters) and all(
        unicodedata.name(c, "").startswith(names) for c in letters
    )


@lru_cache(maxsize=2)
def _vocabulary(folder: Path) -> list[tuple[str, str]]:
    """Return each token as its symbol and its text, special ones left out."""
    path = folder / "tokenizer.json"
    try:
        held = json.loads(path.read_text("utf-8"))
        entries = held["model"]["vocab"]
        plain = set(entries) if isinstance(entries, dict) else {symbol for symbol, _ in entries}
        added = {token["content"] for token in held.get("added_tokens") or []}
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}, so the token rows cannot be counted; copy the base's tokenizer.json there, "
            "or train none with model.rows = 'none'"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; put back a copy of it") from None
    bytewise = "ByteLevel" in _kinds(held.get("decoder"))
    texts = [(s, _spelt(s) if bytewise else s) for s in plain - added]
    marks = _marks(folder)
    return texts + [(s, s) for s in added if s not in marks]


def _marks(folder: Path) -> set[str]:
    found: set[str] = set()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            said = json.loads((folder / name).read_text("utf-8"))
        except (OSError, ValueError):
            continue
        given = [said.get(f"{mark}_token") for mark in MARKS]
        given += [token for key in LISTS for token in said.get(key) or []]
        found |= {token["content"] if isinstance(token, dict) else str(token) for token in given}
    return found


def _kinds(decoder: Any) -> set[str]:
    if not isinstance(decoder, dict):
        return set()
    inner = [_kinds(part) for part in decoder.get("decoders", [])]
    return {str(decoder.get("type"))}.union(*inner)


def _spelt(symbol: str) -> str:
    """Return the text of a byte-level symbol, which has one letter for each byte; any other symbol as it is."""
    try:
        return bytes(_bytes()[c] for c in symbol).decode("utf-8", errors="replace")
    except KeyError:
        return symbol


@cache
def _bytes() -> dict[str, int]:
    # GPT-2's letters for bytes: printable ones stand for themselves, the rest follow from U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + at): byte for at, byte in enumerate(others)}
