"""What a silo serves of each study: which candidate lies in its folder, and what its test text says of all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import metrics
from fl_client.config import ConfigError
from fl_client.memory import write_whole

FILE = "served.json"
WORDS = {
    "base": "the base as it was, which nothing improved",
    "alone": "what this silo trained by itself",
    "together": "what all silos trained together",
    "adapted": "what all silos trained together, trained on by this silo itself",
    "blend": "a blend of what this silo trained by itself and what all trained together",
}


class Served(NamedTuple):
    """What a silo serves of a study: one of its candidates, with test scores of all by candidate and language."""

    folder: Path
    study: str
    served: str
    base: str
    scores: dict[str, dict[str, dict[str, float]]]

    def bits(self, candidate: str, lang: str) -> float | None:
        """Return the bits per byte of a candidate on this silo's test text, None where it was not scored."""
        row = self.scores.get(candidate, {}).get(lang)
        return row["bits"] / row["bytes"] if row else None


def note(folder: Path, study: str, base: str, served: str, numbers: Mapping[str, float]) -> None:
    """Write which candidate lies in a folder beside its adapter, with the test scores of all."""
    scores = {name: metrics.by_language(dict(numbers), name) for name in WORDS}
    said = {"schema": 1, "study": study, "base": base, "served": served}
    said |= {"scores": {name: rows for name, rows in scores.items() if rows}}
    write_whole(folder / FILE, json.dumps(said, indent=1, sort_keys=True).encode())


def read(folder: Path) -> Served:
    """Return what lies in a folder; raises ``ConfigError`` where that cannot be read."""
    try:
        said: dict[str, Any] = json.loads((folder / FILE).read_bytes())
        found = Served(folder, *(said[key] for key in ("study", "served", "base", "scores")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / FILE} cannot be read ({type(error).__name__}); the study must be scored again"
        ) from error
    return found


def every(folder: Path) -> tuple[list[Served], list[ConfigError]]:
    """Return what a silo serves, by study, and what of it cannot be read; a study that was not scored has nothing."""
    found: list[Served] = []
    damaged: list[ConfigError] = []
    for file in sorted((folder / "studies").glob(f"*/served/{FILE}")):
        try:
            found.append(read(file.parent))
        except ConfigError as error:
            damaged.append(error)
    return found, damaged


def chosen(folder: Path, study: str) -> Served:
    """Return what is served of one study; raises ``ConfigError`` where there is none, or several of that name."""
    found, damaged = every(folder)
    ours = [one for one in found if study in (one.study, one.folder.parent.name)]
    if len(ours) == 1:
        return ours[0]
    if ours:
        names = ", ".join(one.folder.parent.name for one in ours)
        raise ConfigError(f"there are {len(ours)} studies {study!r}; give one of {names}")
    if damaged:  # which may be the one that was asked for
        raise damaged[0]
    names = ", ".join(one.study for one in found) or "none yet"
    raise ConfigError(f"nothing is served of a study {study!r}; scored here: {names}")
