"""Parcels: the arrays of a message as a file of their own, named by its SHA-256, which travels beside Flower.

The message then holds the parcel's name alone. Flower makes three objects and more of an array, copies each a dozen
times and keeps them in a database; a parcel goes from one disk to the other, goes on where a cut of the line left it,
and is sent once however often it is named. Only who was told the name can ask for it, and the hash is checked by who
reads. Simulated silos have no line, and their arrays stay in the message.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from safetensors import SafetensorError

from fl_client import memory, tensors
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.silo")
NAME = re.compile(r"([0-9a-f]{64}):([0-9]{1,15})")
OUTBOX, INBOX = "outbox", "inbox"  # in a silo's folder
Pieces = Iterable[bytes | memoryview]
Ready = Callable[["Parcel"], None]  # what is told of a parcel


class Parcel(NamedTuple):
    """What a message says of a parcel."""

    sha256: str
    bytes: int

    def __str__(self) -> str:
        """As ``parse`` reads it."""
        return f"{self.sha256}:{self.bytes}"


class Delta(NamedTuple):
    """A parcel that says what changed since the one it starts from: see ``deltas``."""

    parcel: Parcel
    start: Parcel


class Offer(NamedTuple):
    """A parcel that a silo may fetch, and where there is one the delta that makes it from what the silo may hold."""

    parcel: Parcel
    delta: Delta | None = None

    def said(self) -> dict[str, str]:
        """Return it as ``offered`` reads it."""
        whole = {"parcel": str(self.parcel)}
        if self.delta is None:
            return whole
        return whole | {"delta": str(self.delta.parcel), "start": str(self.delta.start)}


def offered(said: Mapping[str, str]) -> Offer:
    """Return the offer that a message makes; raises ``ValueError`` on anything else."""
    named = {key: parse(text) for key, text in said.items()}
    if named.keys() == {"parcel"}:
        return Offer(named["parcel"])
    if named.keys() != {"parcel", "delta", "start"}:
        raise ValueError("this offers no parcel")
    return Offer(named["parcel"], Delta(named["delta"], named["start"]))


def parse(text: str) -> Parcel:
    """Return the parcel that a text names; raises ``ValueError``."""
    found = NAME.fullmatch(text)
    if not found:
        raise ValueError("this names no parcel")
    return Parcel(found[1], int(found[2]))


def path(folder: Path, parcel: Parcel) -> Path:
    """Return where a parcel lies in a folder of parcels."""
    return folder / f"{parcel.sha256}.safetensors"


def keep(folder: Path, arrays: Adapter, ready: Ready | None = None) -> Parcel:
    """Write arrays as a parcel, durable when this returns; see ``put``."""
    return put(folder, tensors.pieces(arrays), ready)


def put(
    folder: Path, pieces: Pieces, ready: Ready | None = None, wanted: Parcel | None = None
) -> Parcel:
    """Write bytes as a parcel, durable when this returns; one that is there already only becomes the newest.

    ``ready`` is called as soon as the parcel can be read, while the disk still writes. A power cut in between may leave
    a file under the name that is not whole, which every reader notices by the hash. Raises ``ValueError``, and writes
    nothing, where another parcel is ``wanted``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = memory.part(folder / f"{uuid4().hex}.safetensors")
    try:
        parcel = _write(begun, pieces)
        if wanted not in (None, parcel):
            raise ValueError(f"these bytes are not the parcel {wanted}")
        target = path(folder, parcel)
        if whole(target, parcel):
            os.utime(target)
        else:
            begun.replace(target)
        if ready is not None:
            ready(parcel)
        memory.sync(target)  # also one that is there: its writer may have been killed before this
    finally:
        begun.unlink(missing_ok=True)
    return parcel


def _write(file: Path, pieces: Pieces) -> Parcel:
    """Write a file piece by piece, and hash each piece while it is written."""
    digest, size = hashlib.sha256(), 0
    with file.open("wb", buffering=0) as stream, ThreadPoolExecutor(1) as aside:
        for piece in pieces:
            hashed = aside.submit(digest.update, piece)
            memory.write(stream, piece)
            hashed.result()
            size += len(piece)
    return Parcel(digest.hexdigest(), size)


def read(folder: Path, parcel: Parcel) -> Adapter:
    """Return the arrays of a parcel; raises ``ValueError`` where it is not there or damaged.

    They are views of the file, which may be removed but never changed; to change them changes a copy.
    """
    file = path(folder, parcel)
    try:
        with file.open("rb") as stream:
            held = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:  # or the file is empty
        raise ValueError(f"the parcel {parcel.sha256} is not there or damaged: {error}") from None
    if len(held) != parcel.bytes or hashlib.sha256(held).hexdigest() != parcel.sha256:
        raise ValueError(f"the parcel {parcel.sha256} is damaged")
    try:
        return tensors.view(file, held)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"the parcel {parcel.sha256} holds no arrays") from error


def whole(file: Path, parcel: Parcel) -> bool:
    """Return whether a file is this parcel, every byte of it; one that cannot be read is not."""
    try:
        if not file.exists() or file.stat().st_size != parcel.bytes:
            return False
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() == parcel.sha256
    except OSError as error:
        LOG.warning("%s cannot be read: %s", file, error.strerror)
        return False
