"""What programs under supervision write: a file each, which goes on from its start where it has grown large."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

LARGEST = 10 << 20  # bytes of a log, which then goes on from the start beside a copy of what it was


def rotate(log: Path) -> None:
    """Begin a log that has grown large anew, beside its past."""
    with suppress(OSError):  # a full disk has no room for its past
        if log.stat().st_size > LARGEST:
            try:
                shutil.copyfile(log, log.with_name(log.name + ".1"))
            finally:
                os.truncate(log, 0)  # programs append, so they go on at the new end
