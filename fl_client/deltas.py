"""Deltas: what changed from one parcel to the next of the same length, bit for bit, as a parcel of its own.

Of one piece after the other a delta says which 32-bit words changed, a bit each, and then those words XORed with what
they were: all first bytes, all second bytes and so on. Where few numbers change little is said, and where they change a
little sign and exponent mostly stay. Nothing else repeats in it, so zlib looks for runs alone, which is sooner and
shorter than its search for repeats. Numbers are never read as numbers, so nothing is rounded.

Both sides read piece by piece, and a delta makes exactly as many bytes as it starts from, whatever it holds.
"""

from __future__ import annotations

import logging
import mmap
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fl_client import parcels
from fl_client.parcels import Delta, Parcel
from strategies.adapter import Array

LOG = logging.getLogger("bhasha_fl.hub")
PIECE = 1 << 20
LEAST = 64 << 10  # bytes of a parcel below which a delta is not worth its words
PAYS = 0.75  # of the parcel: a longer delta is not worth making it, keeping it, and falling back from it
PROBES, PROBE = 16, 256 << 10  # pieces that tell whether a delta would pay, and the bytes of each
WORD = 4
FED = 64 << 10
Held = bytes | mmap.mmap


def made(old: Held, new: Held) -> Iterator[bytes]:
    """Yield the delta from ``old`` to ``new``, in pieces; raises ``ValueError`` where one is longer than the other."""
    if len(old) != len(new):
        raise ValueError(f"a delta leads from {len(old)} bytes to as many, not to {len(new)}")
    stream = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    for at in range(0, len(old), PIECE):
        apart = _words(old[at : at + PIECE]) ^ _words(new[at : at + PIECE])
        changed = apart != 0
        planes = apart[changed].view(np.uint8).reshape(-1, WORD).T
        yield stream.compress(np.packbits(changed).tobytes())
        yield stream.compress(planes.tobytes())
    yield stream.flush()


def applied(old: Held, delta: Held) -> Iterator[bytes]:
    """Yield what a delta makes of ``old``, in pieces, as many bytes in all; raises ``ValueError`` on what is no delta.

    Whether it is what was wanted is for its hash to say.
    """
    stream = _Inflated(delta)
    for at in range(0, len(old), PIECE):
        piece = old[at : at + PIECE]
        words = _words(piece)
        bits = np.frombuffer(stream.take(-(-words.size // 8)), np.uint8)
        changed = np.unpackbits(bits, count=words.size).astype(bool)
        count = int(changed.sum())
        planes = np.frombuffer(stream.take(WORD * count), np.uint8).reshape(WORD, count)
        words[changed] ^= np.ascontiguousarray(planes.T).reshape(-1).view(np.uint32)
        yield words.tobytes()[: len(piece)]
    stream.end()


def _words(piece: bytes) -> Array:
    """Return a piece as 32-bit words, filled up with zeros where it ends in the middle of one."""
    return np.frombuffer(bytearray(piece + bytes(-len(piece) % WORD)), np.uint32)


class _Inflated:
    """What a delta holds, in portions of exactly the size that is asked for."""

    def __init__(self, delta: Held) -> None:
        self._delta, self._at, self._stream = delta, 0, zlib.decompressobj()

    def take(self, size: int) -> bytes:
        """Return so many bytes; raises ``ValueError`` where there are fewer."""
        found = bytearray()
        while len(found) < size:
            found += self._more(size - len(found))
        return bytes(found)

    def end(self) -> None:
        """Raise ``ValueError`` where anything is left."""
        while not self._stream.eof:
            if self._more(1):
                raise ValueError("the delta holds more than it starts from")
        if self._stream.unused_data or self._at < len(self._delta):
            raise ValueError("something follows the delta")

    def _more(self, most: int) -> bytes:
        """Return as much as the next bytes hold, up to so many; raises ``ValueError`` where there are none."""
        fed = self._stream.unconsumed_tail
        if not fed and not self._stream.eof:
            fed = self._delta[self._at : self._at + FED]
            self._at += len(fed)
        try:
            found = self._stream.decompress(fed, most)
        except zlib.error as error:
            raise ValueError("the delta is damaged") from error
        if not (found or fed):
            raise ValueError("the delta ends early")
        return found


def between(folder: Path, start: Parcel, parcel: Parcel) -> Delta | None:
    """Return the delta from one parcel of a folder to another, which lies there then; None where it would not pay."""
    if start.bytes != parcel.bytes or parcel.bytes < LEAST:
        return None
    try:
        with ExitStack() as files:
            old, new = (files.enter_context(_mapped(folder, one)) for one in (start, parcel))
            if not pays(old, new):
                return None
            delta = parcels.put(folder, made(old, new))
    except (OSError, ValueError) as error:  # it is lost or cut, or the disk is full
        LOG.warning("the parcel %s has no delta and travels whole: %s", parcel.sha256, error)
        return None
    if delta.bytes > PAYS * parcel.bytes:
        parcels.path(folder, delta).unlink()
        return None
    return Delta(delta, start)


def pays(old: Held, new: Held) -> bool:
    """Return whether a delta would pay, by that of pieces which lie evenly in both: all of it, where they are short."""
    probed = [_probed(held) for held in (old, new)]
    return sum(map(len, made(*probed))) <= PAYS * len(probed[0])


def _probed(held: Held) -> bytes:
    apart = max(PROBE, len(held) // PROBES // WORD * WORD)
    return b"".join(held[at : at + PROBE] for at in range(0, len(held), apart))


def rebuild(folder: Path, parcel: Parcel, delta: Delta) -> None:
    """Make a parcel in a folder from the one there that a delta starts from, durably.

    Raises ``ValueError`` where they make no such parcel, ``OSError`` where one is not there.
    """
    with _mapped(folder, delta.start) as old, _mapped(folder, delta.parcel) as changes:
        parcels.put(folder, applied(old, changes), wanted=parcel)


def _mapped(folder: Path, parcel: Parcel) -> mmap.mmap:
    with parcels.path(folder, parcel).open("rb") as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
