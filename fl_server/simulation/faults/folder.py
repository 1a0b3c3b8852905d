"""The folder in which a trial's machines have theirs, while it is played; nobody warns of what happens in it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_server.simulation import scratch


@contextmanager
def folder() -> Iterator[Path]:
    """Yield an empty folder, which is gone afterwards."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with scratch.folder("faults-") as root:
            yield root
    finally:
        logging.disable(before)
