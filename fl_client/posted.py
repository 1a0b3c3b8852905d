"""Word from a silo's workers to its gateway that a parcel lies in the outbox.

Its way to the hub can then begin before Flower has carried the reply that names it. A lost word costs time only.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fl_client import parcels, sockets
from fl_client.parcels import Parcel

LONGEST = 256  # bytes of a word


class Seal(NamedTuple):
    """By what a file is known to be the one that was written: nobody has changed it since."""

    inode: int
    modified_ns: int
    bytes: int


def path(folder: Path) -> Path:
    """Return where a silo's gateway hears of parcels; raises ``ConfigError``."""
    return sockets.path(folder, "posted")


def seal(file: Path) -> Seal:
    """Return the seal of a file; raises ``OSError``."""
    found = file.stat()
    return Seal(found.st_ino, found.st_mtime_ns, found.st_size)


def say(folder: Path, parcel: Parcel) -> None:
    """Tell the gateway, where one runs, of a parcel that was just written to the outbox of a silo's folder."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
        way.setblocking(False)
        made = seal(parcels.path(folder / parcels.OUTBOX, parcel))
        way.sendto(" ".join(map(str, (parcel, *made))).encode(), str(path(folder)))


def heard(word: bytes) -> tuple[Parcel, Seal]:
    """Return what was said; raises ``ValueError``."""
    if len(word) > LONGEST:
        raise ValueError("a word that is too long")
    named, *numbers = word.decode("ascii").split(" ")
    if len(numbers) != len(Seal._fields):
        raise ValueError("a word that names no file")
    return parcels.parse(named), Seal(*map(int, numbers))
