"""What a silo must remember between rounds, on its own disk: codec residual, private adapter, optimizer.

One file a round, written whole or not at all. A round that is asked again starts from the same earlier file, so
training it twice gives the same bits.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from io import FileIO
from pathlib import Path

from fl_client import sealed
from strategies.adapter import Adapter

LOG = logging.getLogger("bhasha_fl.silo")
NAME = re.compile(r"round-(\d{5,})\.safetensors")


def path(home: Path, number: int) -> Path:
    """Return where the memory of a round lies."""
    return home / "memory" / f"round-{number:05d}.safetensors"


def rounds(home: Path) -> list[int]:
    """Return the rounds of which a memory is kept, oldest first."""
    names = (NAME.fullmatch(p.name) for p in (home / "memory").glob("round-*.safetensors"))
    return sorted(int(match[1]) for match in names if match)


def recall(home: Path, before: int) -> Adapter:
    """Return the newest memory from before a round that is whole; empty if there is none."""
    return _newest(home, before)[1]


def _newest(home: Path, before: int) -> tuple[int, Adapter]:
    for number in reversed([number for number in rounds(home) if number < before]):
        found = _read(path(home, number))
        if found is not None:
            return number, found
    return 0, {}


def _later(home: Path, after: int) -> Adapter:
    """Return the earliest memory from after a round that is whole; empty if there is none."""
    found = (_read(path(home, number)) for number in rounds(home) if number > after)
    return next((arrays for arrays in found if arrays is not None), {})


def _read(file: Path) -> Adapter | None:
    """Return the arrays of a memory, None where it is damaged."""
    try:
        return sealed.open_(file.read_bytes())
    except ValueError as error:
        LOG.error("%s is damaged and left aside: %s", file, error)
        return None


def agreed(home: Path, before: int, lost: int) -> Adapter:
    """Return the memory that a round begins with, in which no update that was ``lost`` has left a trace.

    What both sides know of updates, the codec's memory and the strategy's, is that of the last one that counted, and
    nothing where that is missing or damaged: an older one, as from an old copy of a disk, is not what the hub knows.
    A hub that was set back behind all that is kept finds the silo's own part as it was soonest after, but in round 1.
    """
    last, (number, newest) = (lost or before) - 1, _newest(home, before)
    if number == last:
        return newest
    counted, own = held(home, last), newest or (_later(home, before) if before > 1 else {})
    return {n: x for n, x in own.items() if not _of_updates(n)} | {
        n: x for n, x in counted.items() if _of_updates(n)
    }


def _of_updates(name: str) -> bool:
    return name == "residual" or name.startswith("local/")


def held(home: Path, number: int) -> Adapter:
    """Return the memory of one round; empty if it is not kept, or damaged."""
    return (_read(path(home, number)) or {}) if number in rounds(home) else {}


def keep(home: Path, number: int, arrays: Adapter, best: int, lost: int = 0) -> None:
    """Write the memory of a round durably; of earlier ones the last two stay, the best, and the last that counted.

    Two, because a hub whose newest round is damaged asks again for that one, when silos are at work on the next.
    """
    write_whole(path(home, number), sealed.seal(arrays))
    earlier = [n for n in rounds(home) if n < number]
    counted = [n for n in earlier if n < lost]
    stays = {*earlier[-2:], *[n for n in earlier if n <= best][-1:], *counted[-1:]}
    for old in set(earlier) - stays:
        path(home, old).unlink()


def write_whole(target: Path, content: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all: temporary, fsync, rename, fsync."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        part(target).write_bytes(content)
        complete(target)
    except BaseException:  # as of a full disk, which needs the room
        part(target).unlink(missing_ok=True)
        raise


def write(stream: FileIO, content: bytes | memoryview) -> None:
    """Write all of it to a file without a buffer; raises ``OSError``, also where the disk takes only some of it."""
    if stream.write(content) != memoryview(content).nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def part(target: Path) -> Path:
    """Return where a file lies as long as it is not whole."""
    return target.with_name(target.name + ".part")


def complete(target: Path) -> None:
    """Put what was written as the part of a file in its place, durably: fsync, rename, fsync of the folder."""
    begun = part(target)
    _sync(begun)
    begun.replace(target)
    _sync(target.parent)


def sync(file: Path) -> None:
    """Return once a file and its name are durable."""
    _sync(file)
    _sync(file.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
