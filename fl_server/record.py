"""The folder of a run: what people keep. One JSON line a round, the adapters, the report and where it came from."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any

from fl_client import digest
from fl_client.config import ConfigError, Study
from fl_client.memory import write_whole
from fl_server import config, provenance

Line = dict[str, Any]
FILE, COPY = "rounds.jsonl", "journal/rounds.jsonl"
SEAL = b', "crc32": "%08x"}'  # how every line ends
SEALED = len(SEAL % 0)
# Each round asks for the record several times: what was parsed of the newest one is kept, with how many bytes that were
# and their checksum. It holds as long as the file begins with them.
_READ: dict[Path, tuple[int, int, list[Line | None]]] = {}


def claim(folder: Path, study: Study, resume: bool, cohort: int = 0) -> None:
    """Make a run folder, or take up one of the same study; raises ``ConfigError`` and changes nothing.

    How many silos train at once is noted, for the last bits depend on it: see ``cohort``.
    """
    note = folder / "provenance.json"
    if not note.exists():
        if folder.exists() and not _begun(folder, study):
            raise ConfigError(f"{folder} is not empty and holds no run; choose another --out")
        if resume:
            raise ConfigError(f"{folder} holds no run to resume; start one with --out {folder}")
        write_whole(folder / "study.toml", config.toml(study).encode())
        write_whole(note, json.dumps(provenance.of(study) | {"cohort": cohort}, indent=1).encode())
        return
    if json.loads(note.read_text())["study_sha256"] != digest.of(study):
        raise ConfigError(f"{folder} belongs to another study; choose another --out")
    if not resume:
        raise ConfigError(f"{folder} holds this study already; continue it with --resume {folder}")


def _begun(folder: Path, study: Study) -> bool:
    """Return whether a folder holds no more than a claim of this study leaves that was killed before its last write."""
    text = config.toml(study).encode()
    return all(
        path.suffix == ".part" or path.name == "study.toml" and path.read_bytes() == text
        for path in folder.iterdir()
    )


def cohort(folder: Path) -> int | None:
    """Return how many silos of a simulated run train at once, 0 for one at a time; None where there is no run yet."""
    note = folder / "provenance.json"
    return int(json.loads(note.read_text()).get("cohort", 0)) if note.exists() else None


def lines(folder: Path) -> list[Line]:
    """Return the lines of the rounds recorded so far; a last line that was cut short is left out.

    One that is damaged or gone is taken from the copy; raises ``ConfigError`` where it is damaged there too. Whoever
    asks again is given the same lines, which are not to be changed.
    """
    found = _grown(folder / FILE)
    # The copy is written second, so it never has more than a sound file.
    if None in found or len(found) < _whole(folder / COPY).count(b"\n"):
        both = [line for line in (*sound(folder / COPY), *found) if line is not None]
        by_round = {line["round"]: line for line in both}
        found = [by_round.get(number) for number in range(max(by_round, default=0) + 1)]
    if None in found:
        raise ConfigError(f"{folder / FILE} is damaged, and so is {COPY}; put back a copy")
    return [line for line in found if line is not None]


def append(folder: Path, line: Line) -> None:
    """Add the line of a round, durably."""
    for name in (FILE, COPY):
        (folder / name).parent.mkdir(exist_ok=True)
        add(folder / name, [line])


def add(path: Path, more: Iterable[Line]) -> None:
    """Add lines to a file, durably."""
    with path.open("ab") as stream:
        stream.write(written(more))
        stream.flush()
        os.fsync(stream.fileno())


def rewind(folder: Path, number: int) -> None:
    """Drop the lines of rounds after ``number``, which were never committed.

    Raises ``ConfigError``, and changes nothing, where that round itself has no line: it was lost.
    """
    kept = [line for line in lines(folder) if line["round"] <= number]
    if max((line["round"] for line in kept), default=-1) < number:
        raise ConfigError(
            f"{folder / FILE} and {COPY} have no line of round {number}, which is committed; put back a copy of one, "
            f"or take that round out of {folder / 'journal'} and it is trained again"
        )
    for name in (COPY, FILE):
        write_whole(folder / name, written(kept))


def written(found: Iterable[Line]) -> bytes:
    """Return lines as they are written, each with its checksum."""
    texts = (json.dumps(line, sort_keys=True).encode() for line in found)
    return b"".join(text[:-1] + SEAL % zlib.crc32(text) + b"\n" for text in texts)


def sound(path: Path) -> list[Line | None]:
    """Return the lines of a file, None for those whose checksum does not fit; a last one cut short is left out."""
    return _parsed(_whole(path))


def _grown(path: Path) -> list[Line | None]:
    """Return what ``sound`` does; of a file that was read here before and has only grown, the rest alone is parsed."""
    content = _whole(path)
    size, crc32, found = _READ.get(path, (0, 0, []))
    before, rest = memoryview(content)[:size], content[size:]
    if len(before) < size or zlib.crc32(before) != crc32:  # it was rewound, or is damaged
        crc32, rest, found = 0, content, []
    found = found + _parsed(rest)
    _READ.clear()
    _READ[path] = len(content), zlib.crc32(rest, crc32), found
    return found


def _whole(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def _parsed(content: bytes) -> list[Line | None]:
    texts = [(line[:-SEALED] + b"}", line[-SEALED:]) for line in content.split(b"\n")[:-1]]
    return [json.loads(t) if seal == SEAL % zlib.crc32(t) else None for t, seal in texts]


def best(recorded: list[Line], silos: list[str]) -> int:
    """Return the round (1 or later) whose adapter did best on these silos' validation text, 0 if none was scored."""
    reached = {
        line["round"]: mean
        for line in recorded
        if line["round"] > 0 and (mean := _mean(line, silos)) is not None and isfinite(mean)
    }
    return min(reached, key=lambda number: (reached[number], number), default=0)


def bits_per_byte(line: Line, silo: str) -> float | None:
    """Return a silo's validation bits per byte over all its languages after a round, None if it was not scored."""
    own = line["silos"].get(silo, {}).get("valid")
    if not own:
        return None
    bits, size = (sum(score[name] for score in own.values()) for name in ("bits", "bytes"))
    return float(bits / size)


def _mean(line: Line, silos: list[str]) -> float | None:
    scores = [score for silo in silos if (score := bits_per_byte(line, silo)) is not None]
    return sum(scores) / len(scores) if scores else None


def effort(recorded: list[Line]) -> dict[str, dict[str, dict[str, float]]]:
    """Return what each silo's worker group measured of itself, by name and rank: the mean over its rounds."""
    held: dict[str, dict[str, dict[str, list[float]]]] = {}
    for line in recorded:
        for silo, note in line["silos"].items():
            for name, ranks in note.get("ranks", {}).items():
                for rank, value in ranks.items():
                    rows = held.setdefault(silo, {}).setdefault(name, {})
                    rows.setdefault(rank, []).append(value)
    return {
        silo: {
            name: {rank: round(sum(row) / len(row), 4) for rank, row in sorted(ranks.items())}
            for name, ranks in sorted(own.items())
        }
        for silo, own in sorted(held.items())
    }


def cohorts(recorded: list[Line]) -> dict[str, Any]:
    """Return how many silos trained at once at most, and why others trained by themselves, in how many trainings."""
    notes = [note for line in recorded for note in line["silos"].values() if "cohort" in note]
    apart = Counter(note["apart"] for note in notes if "apart" in note)
    return {"most": max((note["cohort"] for note in notes), default=1), "apart": dict(apart)}


def weights(recorded: list[Line]) -> dict[str, list[float]]:
    """Return the least and the most that each silo's update counted in any round; the heaviest of a round is 1."""
    held: dict[str, list[float]] = {}
    for line in recorded:
        for silo, note in line["silos"].items():
            if "weight" in note:
                held.setdefault(silo, []).append(note["weight"])
    return {silo: [min(row), max(row)] for silo, row in sorted(held.items())}
