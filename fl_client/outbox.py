"""What a silo has finished and may be asked for again: the answer to its last training, beside the parcel it names.

The memory of the round is durable first, then the parcel, then this answer: one that is found here can be given
without training again. It is found by all that it depends on, and only while every byte is as it was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path

from fl_client import digest, memory, parcels, stock
from fl_client.parcels import Parcel
from fl_client.workers import Job, Result
from strategies import adapter as algebra

LOG = logging.getLogger("bhasha_fl.silo")
FILE = "answer.json"


def key(job: Job) -> str:
    """Return the key of a round's training: it changes with anything that its answer depends on."""
    parts = (digest.of(job.study), *job.order, algebra.sha256(job.received))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def keep(folder: Path, key: str, found: Result, ready: Callable[[Parcel], None]) -> Result:
    """Return a result whose arrays lie in a silo's outbox; ``find`` finds it by its key, if it has one."""
    parcel = parcels.keep(folder, found.arrays, ready)
    stock.prune(folder, last=parcel)
    if key:
        metrics = {name: float(value) for name, value in found.metrics.items()}
        said = {"key": key, "parcel": str(parcel), "metrics": metrics, "facts": found.facts}
        memory.write_whole(folder / FILE, _sealed(json.dumps(said)))
    return found._replace(arrays={}, parcel=parcel)


def find(folder: Path, key: str) -> Result | None:
    """Return the answer of this key, None where there is none or anything of it is damaged."""
    try:
        content = (folder / FILE).read_bytes()
        text = content.partition(b"\n")[2].decode()
        if content != _sealed(text):
            raise ValueError("its checksum is another")
        said = json.loads(text)
        parcel = parcels.parse(said["parcel"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        LOG.warning("%s cannot be read and is left aside: %s", folder / FILE, error)
        return None
    if said["key"] != key or not parcels.whole(parcels.path(folder, parcel), parcel):
        return None
    return Result({}, said["metrics"], said["facts"], parcel)


def _sealed(text: str) -> bytes:
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}".encode()
