"""Questions for work, held open until there is some; and messages handed out again until the silo has them all.

The SuperLink gives a message out once. Here it stays, on disk, until the silo confirms, or its run is over, or its
time is up: a silo that lost the answer gets the same one again.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import NamedTuple

from fl_client import fleet
from fl_client.fleet import Pulled
from fl_client.silo import NAME

FILE = "pulled"


class Kept(NamedTuple):
    """A message that a silo has not confirmed: what it says, and the answer that carries it."""

    said: Pulled
    body: bytes


class Pulls(NamedTuple):
    """What is kept for each silo; the number of its latest question; its turn to ask the SuperLink."""

    folder: Path
    kept: dict[str, Kept]
    latest: dict[str, int]
    turns: dict[str, asyncio.Lock]


def load(folder: Path) -> Pulls:
    """Return what is kept on disk."""
    kept = {}
    for path in folder.glob(f"*/{FILE}"):
        found = _read(path.read_bytes())
        if found and NAME.fullmatch(path.parent.name):
            kept[path.parent.name] = found
    return Pulls(folder, kept, {}, {})


def _read(body: bytes) -> Kept | None:
    try:
        said = fleet.pulled(fleet.response(fleet.PULL_MESSAGES, body))
    except ValueError:
        return None
    return Kept(said, body) if said else None


def current(pulls: Pulls, silo: str) -> Kept | None:
    """Return the message that a silo has not confirmed; one whose time is up is dropped."""
    kept = pulls.kept.get(silo)
    if kept is not None and kept.said.expires <= time.time():
        drop(pulls, silo)
        return None
    return kept


def keep(pulls: Pulls, silo: str, body: bytes) -> Kept | None:
    """Keep the message in an answer of the SuperLink and return it, None where it carries none; raises ``OSError``.

    No fsync: this must outlive the process. A power cut ends the Flower run, whose messages are then of no use.
    """
    found = _read(body)
    if found:
        pulls.kept[silo] = found
        path = pulls.folder / silo / FILE
        path.parent.mkdir(exist_ok=True)
        path.with_suffix(".part").write_bytes(body)
        path.with_suffix(".part").replace(path)
    return found


def drop(pulls: Pulls, silo: str, run: int | None = None) -> None:
    """Drop the message kept for a silo, or only if it belongs to a run."""
    kept = pulls.kept.get(silo)
    if kept is not None and run in (None, kept.said.run):
        del pulls.kept[silo]
        (pulls.folder / silo / FILE).unlink(missing_ok=True)


def works_on(pulls: Pulls, silo: str, run: int) -> bool:
    """Return whether a silo was given a message of a run and has not confirmed it."""
    kept = current(pulls, silo)
    return kept is not None and kept.said.run == run


def turn(pulls: Pulls, silo: str) -> asyncio.Lock:
    """Return the lock under which a silo's questions go to the SuperLink, one after the other."""
    return pulls.turns.setdefault(silo, asyncio.Lock())
