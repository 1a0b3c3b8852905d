"""The folder in which a trial's machines have theirs, while it is played; nobody warns of what happens in it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MEMORY = "/dev/shm"  # where real files cost little


@contextmanager
def folder() -> Iterator[Path]:
    """Yield an empty folder, which is gone afterwards."""
    there = MEMORY if os.access(MEMORY, os.W_OK) else None
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with TemporaryDirectory(prefix="faults-", dir=there) as root:
            yield Path(root)
    finally:
        logging.disable(before)
