"""What stays free of the hub's disk. With less, updates are not taken in, and studies wait instead of failing."""

from __future__ import annotations

import errno
from pathlib import Path

from fl_client.room import SPARE, fits

__all__ = ["SPARE", "WAITS", "fits", "lacked"]

WAITS = (
    f"it waits: less than {SPARE >> 20} MiB of the hub's disk are free; free some and it goes on"
)


def lacked(folder: Path, error: Exception) -> bool:
    """Return whether an error is that of a full disk, or came while it was nearly full: Flower's do not say why."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or not fits(folder)
