"""A folder in memory, where writing durably costs nothing, for what is not to last."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MEMORY = "/dev/shm"


@contextmanager
def folder(prefix: str) -> Iterator[Path]:
    """Yield an empty folder, in memory where the system lets us, which is gone afterwards."""
    there = MEMORY if os.access(MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix=prefix, dir=there) as made:
        yield Path(made)
