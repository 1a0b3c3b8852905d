"""What the hub has committed: after each round one file of arrays and one note, written whole or not at all.

A round is committed when its note is there and the checksum in it fits the arrays. Resuming starts from the newest
such round. The last two rounds and those that are the best of some silos are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

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
    note: dict[str, Any] = {"round": state.round, "groups": sorted(state.adapter)}
    note |= {"sha256": _sha256(note, content)}
    write_whole(_note(folder, state.round), json.dumps(note).encode())
    for old in committed(folder):
        if old < state.round - 1 and old not in kept:
            _note(folder, old).unlink()
            _arrays(folder, old).unlink()


def committed(folder: Path) -> list[int]:
    """Return the rounds whose note is there, oldest first."""
    return sorted(int(note.stem.removeprefix("round-")) for note in folder.glob("round-*.json"))


def recall(folder: Path, number: int | None = None) -> State | None:
    """Return a committed round, the newest whole one by default, or None if there is none."""
    for candidate in reversed(committed(folder)) if number is None else [number]:
        try:
            note = json.loads(_note(folder, candidate).read_bytes())
            content = _arrays(folder, candidate).read_bytes()
            whole = note.pop("sha256") == _sha256(note, content)
        except (ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            return _state(note, load(content))
        LOG.error("round %d of %s is damaged and left aside", candidate, folder)
    return None


def _sha256(note: dict[str, Any], content: bytes) -> str:
    """Return the checksum of a round: of all that its note says, and of its arrays."""
    return hashlib.sha256(json.dumps(note, sort_keys=True).encode() + content).hexdigest()


def _state(note: dict[str, Any], arrays: Adapter) -> State:
    held: dict[str, dict[str, dict[str, Array]]] = {
        kind: {group: {} for group in note["groups"]} for kind in KINDS
    }
    for key, array in arrays.items():
        kind, group, name = key.split("|", 2)
        held[kind][group][name] = array
    return State(int(note["round"]), *(held[kind] for kind in KINDS))


def _arrays(folder: Path, number: int) -> Path:
    return folder / f"round-{number:05d}.safetensors"


def _note(folder: Path, number: int) -> Path:
    return folder / f"round-{number:05d}.json"
