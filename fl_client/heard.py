"""When the SuperNode last called its gateway, in one file that the supervisor looks at.

A SuperNode whose loop met an error lives on and does nothing. One that works or waits calls every half minute, as
its heartbeat does, whatever the line to the hub is like.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

FILE = "heard"


def note(folder: Path) -> None:
    """Note that it was heard just now. The file's time is the machine's monotonic clock: nobody sets that."""
    now = time.monotonic()
    with suppress(OSError):  # a full disk is no reason to turn it away
        (folder / FILE).touch()
        os.utime(folder / FILE, (now, now))


def silence(folder: Path) -> float:
    """Return for how many seconds it was not heard, 0 where it never was."""
    try:
        return max(0.0, time.monotonic() - (folder / FILE).stat().st_mtime)
    except FileNotFoundError:
        return 0.0
