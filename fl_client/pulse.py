"""That a program is alive: it touches a file of its own every few seconds, and its supervisor looks how old that is.

A port that answers proves little: the kernel takes connections for a frozen process too. The file's time is the
machine's monotonic clock, which nobody sets and which stands still while the machine sleeps.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

FILE = "BHASHA_PULSE"  # in a program's environment: the file that it touches
EVERY_S = 5.0  # between two beats, or two questions
ANSWER_S = 2.0  # how long an answer may take


def note(file: Path) -> None:
    """Note in a file that something was alive just now."""
    now = time.monotonic()
    with suppress(OSError):  # a full disk ends nobody
        try:
            os.utime(file, (now, now))
        except FileNotFoundError:
            # Under another name first: frozen in between, it would have the time of a clock on the wall for ever.
            new = file.with_name(f".{file.name}")
            new.touch()
            os.utime(new, (now, now))
            new.replace(file)


def age(file: Path) -> float:
    """Return how many seconds ago that was, 0 where it never was."""
    try:
        return max(0.0, time.monotonic() - file.stat().st_mtime)
    except OSError:
        return 0.0


def own() -> Path | None:
    """Return this program's file, nothing where nobody looks after it."""
    return Path(os.environ[FILE]) if FILE in os.environ else None


def beat(part: str = "") -> None:
    """Show that this program is alive, or this process of its several."""
    if file := own():
        note(file.with_name(file.name + part))


async def beating() -> NoReturn:
    """Beat for as long as this program's event loop gets on."""
    while True:
        beat()
        await asyncio.sleep(EVERY_S)


def beat_beside(part: str = "") -> None:
    """Beat from a thread, where work takes days: this shows a process that is frozen, not one that waits for ever."""

    def beats() -> NoReturn:
        while True:
            beat(part)
            time.sleep(EVERY_S)

    threading.Thread(target=beats, daemon=True).start()


def silence(file: Path) -> float:
    """Return for how many seconds the most silent process of a program did not beat, 0 where none ever did."""
    return max(map(age, file.parent.glob(f"{file.name}*")), default=0.0)


def forget(file: Path | None) -> None:
    """Forget what the processes of a program showed: those that ended are silent."""
    with suppress(OSError):
        for each in file.parent.glob(f"{file.name}*") if file else ():
            each.unlink(missing_ok=True)


def unanswered(port: int, path: str) -> Callable[[], float]:
    """Return a question to be asked again: for how many seconds has a web server on loopback answered nothing?"""
    heard = asked = time.monotonic()

    def ask() -> float:
        nonlocal heard, asked
        if time.monotonic() - asked >= EVERY_S:
            with suppress(OSError, http.client.HTTPException):
                _get(port, path)
                heard = time.monotonic()
            asked = time.monotonic()
        return time.monotonic() - heard

    return ask


def _get(port: int, path: str) -> None:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    with closing(line):
        line.request("GET", path)
        line.getresponse().read()
