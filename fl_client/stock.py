"""What lies in a folder of parcels, whole or begun, and what of it goes."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from fl_client.parcels import Parcel, path

KEPT = 4  # parcels that stay in a silo's folder


def prune(folder: Path, kept: int = KEPT, last: Parcel | None = None, room: int = -1) -> None:
    """Leave the newest parcels of a folder, first the ``last`` one: ``kept``, and what beyond fits in ``room`` bytes.

    What lies in the future counts as the oldest.
    """
    held = _held(folder)
    if len(held) <= kept:
        return
    os.utime(folder)  # now, by the clock that dates the files
    now, stays = folder.stat().st_mtime_ns, last and path(folder, last)
    dated = {file: known.st_mtime_ns for file, known in held.items()}
    in_order = sorted(held, key=lambda f: (f != stays, dated[f] > now, -dated[f], f.name))
    sizes = accumulate(held[file].st_size for file in in_order)
    for old, size in list(zip(in_order, sizes, strict=True))[kept:]:
        if size > room:
            old.unlink(missing_ok=True)


def expire(folder: Path, seconds: float) -> None:
    """Remove parcels, and the beginnings of such, that nobody touched for so long."""
    before = time.time() - seconds
    for file, known in _held(folder).items():
        if known.st_mtime < before:
            file.unlink(missing_ok=True)


def size(folder: Path) -> int:
    """Return the bytes of all parcels in a folder, of their beginnings too."""
    return sum(known.st_size for known in _held(folder).values())


def _held(folder: Path) -> dict[Path, os.stat_result]:
    """Return what lies in a folder of parcels; another program may take something away meanwhile."""
    found = {}
    for file in folder.glob("*.safetensors*"):
        with suppress(FileNotFoundError):
            found[file] = file.stat()
    return found
