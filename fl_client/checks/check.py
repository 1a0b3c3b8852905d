"""What a check is, and how errors and numbers read in one."""

from __future__ import annotations

from typing import NamedTuple

from fl_client.config import ConfigError


class Check(NamedTuple):
    """One line of the doctor: what was looked at, whether it is well, what was found, what to do where it is not."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def failed(name: str, error: ConfigError, remedy: str) -> Check:
    """Return the red line of an error. What it says to do after its first ``;`` wins over ``remedy``."""
    found, _, said = str(error).partition("; ")
    return Check(name, False, found, said or remedy)


def size(count: float) -> str:
    """Return bytes as people read them: 512 B, 3.5 MB, 12 GB."""
    power = next((p for p in range(4) if abs(count) < 1000 ** (p + 1)), 4)
    held, unit = count / 1000**power, ("B", "kB", "MB", "GB", "TB")[power]
    return f"{held:.1f} {unit}" if power and held < 10 else f"{held:.0f} {unit}"


def span(seconds: float) -> str:
    """Return a time as people read it: 0.3 s, 12 s, 5 min, 3.2 h, 4 days."""
    for unit, length, until in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < until * length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{seconds / 86400:.0f} days"
