"""When the SuperNode last called its gateway, in one file that the supervisor looks at.

A SuperNode whose loop met an error lives on and does nothing. One that works or waits calls every half minute, as
its heartbeat does, whatever the line to the hub is like.
"""

from __future__ import annotations

from pathlib import Path

from fl_client import pulse

FILE = "heard"


def note(folder: Path) -> None:
    """Note that it was heard just now."""
    pulse.note(folder / FILE)


def silence(folder: Path) -> float:
    """Return for how many seconds it was not heard, 0 where it never was."""
    return pulse.age(folder / FILE)
