"""What the hub has committed: after each round one file of arrays and one note, written whole or not at all.

A round is committed when its note is there, and is, byte for byte, the one that these arrays have. Resuming starts from
the newest such round. The last two rounds and those that are the best of some silos are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import NamedTuple

from safetensors.numpy import load, save

from fl_client.memory import write_whole
from strategies.adapter import Adapter, Array

LOG = logging.getLogger("bhasha_fl.hub")
KINDS = ("adapter", "outer", "strategy", "guard")


class State(NamedTuple):
    """A committed round: for each group of silos its tensors, and what optimizer, strategy and guard remember."""

    round: int
    adapter: dict[str, Adapter]
    outer: dict[str, dict[str, Array]]
    strategy: dict[str, dict[str, Array]]
    guard: dict[str, dict[str, Array]] = {}


def commit(folder: Path, state: State, kept: set[int]) -> None:
    """Write a round durably; drop earlier ones that are neither the last nor in ``kept``."""
    arrays = {
        f"{kind}|{group}|{name}": array
        for kind in KINDS
        for group, held in getattr(state, kind).items()
        for name, array in held.items()
    }
    content = save(arrays)
    write_whole(_arrays(folder, state.round), content)
    write_whole(_note(folder, state.round), _said(state.round, content, sorted(state.adapter)))
    for old in committed(folder):
        if old < state.round - 1 and old not in kept:
            # Of a damaged round one of the two may be gone already.
            _note(folder, old).unlink(missing_ok=True)
            _arrays(folder, old).unlink(missing_ok=True)


def committed(folder: Path) -> list[int]:
    """Return the rounds whose note is there, oldest first."""
    return sorted(int(note.stem.removeprefix("round-")) for note in folder.glob("round-*.json"))


def recall(folder: Path, number: int | None = None) -> State | None:
    """Return a committed round, the newest whole one by default, or None if there is none."""
    for candidate in reversed(committed(folder)) if number is None else [number]:
        state = _read(folder, candidate)
        if state is not None:
            return state
        LOG.error("what %s holds of round %d is damaged and left aside", folder, candidate)
    return None


def _read(folder: Path, number: int) -> State | None:
    """Return a round where every byte of its two files is what was committed."""
    try:
        note, content = _note(folder, number).read_bytes(), _arrays(folder, number).read_bytes()
    except FileNotFoundError:
        return None
    held: dict[str, dict[str, dict[str, Array]]] = {kind: {} for kind in KINDS}
    if hashlib.sha256(content).hexdigest() not in note.decode(errors="replace"):
        return None
    for key, array in load(content).items():
        kind, group, name = key.split("|", 2)
        held[kind].setdefault(group, {})[name] = array
    groups = {group: dict[str, Array]() for group in sorted(held["adapter"])}
    if note != _said(number, content, list(groups)):
        return None
    return State(number, *(groups | held[kind] for kind in KINDS))


def _said(number: int, content: bytes, groups: list[str]) -> bytes:
    """Return the note that commits these arrays."""
    sha256 = hashlib.sha256(content).hexdigest()
    return json.dumps({"round": number, "sha256": sha256, "groups": groups}).encode()


def _arrays(folder: Path, number: int) -> Path:
    return folder / f"round-{number:05d}.safetensors"


def _note(folder: Path, number: int) -> Path:
    return folder / f"round-{number:05d}.json"
