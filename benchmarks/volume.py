"""A small filesystem of its own that can be filled to the last byte and freed again: ext4 in a file. Linux, as root."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILL = "fill"


class Volume:
    """A filesystem and where it is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def free(self) -> int:
        """Return the bytes that are free."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes free: with none, whatever writes next finds that the disk is full."""
        with (self.folder / FILL).open("ab", buffering=0) as stream:
            while (room := self.free() - left) > 0:
                try:
                    os.posix_fallocate(stream.fileno(), os.fstat(stream.fileno()).st_size, room)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
                    break

    def empty(self) -> None:
        """Free it again."""
        (self.folder / FILL).unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Volume]:
    """Give a filesystem of so many bytes at a folder, which is made, as long as the context is open."""
    if os.geteuid():
        raise SystemExit("a filesystem of its own needs Linux and root")
    image = folder.with_name(folder.name + ".ext4")
    with image.open("wb") as stream:
        stream.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield Volume(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
        image.unlink()
