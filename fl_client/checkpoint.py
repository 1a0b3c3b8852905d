"""Step checkpoints: the adapter, the optimizer's moments and the losses so far, so that a round survives its ranks.

One file, written whole by rank 0 every so many seconds and when the group is asked to leave. It belongs to one piece of
work by its key. The order of the text needs no saving: it follows from the number of the step.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fl_client import digest, ranks, sealed
from fl_client.config import Study
from fl_client.memory import write_whole
from strategies import adapter as algebra
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.train")
_kept = [time.monotonic()]  # when this process last kept a checkpoint, of whatever work


class Left(Exception):
    """Training left at a step boundary because its group was asked to; what it had reached is in its checkpoint."""


class Keeper(NamedTuple):
    """Where the steps of one piece of work are kept, how often, and what is kept with them."""

    path: Path
    key: str
    every_s: float
    carried: Adapter = {}
    note: dict[str, Any] = {}
    ends: bool = True  # the work ends with the last of its steps, so that none is kept after it


class Held(NamedTuple):
    """What a checkpoint holds: the loss of each step done, arrays, and what was kept with them."""

    losses: list[float]
    arrays: Adapter
    carried: Adapter
    note: dict[str, Any]


def keeper(home: Path, name: str, key: str, every_s: float) -> Keeper | None:
    """Return the keeper of a piece of a silo's work, None where no steps are kept."""
    return Keeper(home / "steps" / f"{name}.safetensors", key, every_s) if every_s else None


def round_key(study: Study, number: int, received: Adapter) -> str:
    """Return the key of a round's training: it changes with anything that the result depends on."""
    parts = f"{digest.of(study)}:{number}:{algebra.sha256(received)}"
    return hashlib.sha256(parts.encode()).hexdigest()


def keep(keeper: Keeper, losses: list[float], arrays: Adapter) -> None:
    """Write a checkpoint durably in place of the one before."""
    note = json.dumps({"key": keeper.key, "note": keeper.note}).encode()
    held = {f"held/{n}": x for n, x in arrays.items()}
    held |= {f"carried/{n}": x for n, x in keeper.carried.items()}
    held["losses"] = np.array(losses, np.float64)
    held["note"] = np.frombuffer(note, np.uint8)
    write_whole(keeper.path, sealed.seal(held))


def recall(keeper: Keeper, whole: bool = True) -> Held | None:
    """Return the checkpoint of this work, the same on all ranks; nothing if there is none or it belongs elsewhere.

    Without ``whole`` it may be that of any work whose key begins with this one.
    """
    there = ranks.first() and keeper.path.is_file()
    content = ranks.spread(keeper.path.read_bytes() if there else b"")
    if not content:
        return None
    try:
        arrays = sealed.open_(content)
        said = json.loads(arrays["note"].tobytes())
        losses = [float(loss) for loss in arrays["losses"]]
        key, note = str(said["key"]), dict(said["note"])
    except (KeyError, ValueError, TypeError) as error:
        LOG.warning("%s cannot be read and is left aside: %s", keeper.path, error)
        return None
    if not (key == keeper.key if whole else key.startswith(keeper.key)):
        return None
    return Held(losses, algebra.under("held/", arrays), algebra.under("carried/", arrays), note)


class Watch:
    """When to keep a checkpoint and when to leave: all ranks vote in each step in which they meet."""

    def __init__(self, keeper: Keeper | None) -> None:
        self._every_s = keeper.every_s if keeper is not None else None
        self._ballot: ranks.Ballot | None = None

    def vote(self) -> None:
        """Vote; the others' votes come in while the step runs."""
        if self._every_s is not None:
            due = ranks.first() and time.monotonic() - _kept[0] >= self._every_s
            self._ballot = ranks.Ballot([ranks.leaving(), due])

    def result(self) -> tuple[bool, bool]:
        """Return whether to leave now, and whether to keep a checkpoint."""
        if self._ballot is None:
            return False, False
        leave, due = self._ballot.result()
        if leave or due:
            _kept[0] = time.monotonic()
        return leave, leave or due
