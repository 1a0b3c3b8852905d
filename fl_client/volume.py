"""How much text a silo has of each language, as it was last counted: what its hub is told, and nothing more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from fl_client.memory import write_whole

FILE = "text.json"
MOST = 64  # languages that a hub is told of


class Volume(NamedTuple):
    """How much text of a language there is."""

    rows: int = 0
    bytes: int = 0


def keep(folder: Path, languages: Mapping[str, Volume]) -> None:
    """Write the counts by language into the silo's folder."""
    plain = {lang: held._asdict() for lang, held in languages.items()}
    write_whole(folder / FILE, json.dumps(plain, sort_keys=True).encode())


def recall(folder: Path) -> dict[str, dict[str, int]]:
    """Return the counts by language, of those with most bytes; empty where nothing was counted yet."""
    try:
        held: dict[str, dict[str, int]] = json.loads((folder / FILE).read_bytes())
        ranked = sorted(held.items(), key=lambda pair: -pair[1]["bytes"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return dict(sorted(ranked[:MOST]))
