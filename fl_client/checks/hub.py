"""The way to the hub: whether it answers and lets this silo in, its clock, the speed of the line, what runs here."""

from __future__ import annotations

from fl_client import clock as clocks
from fl_client import hours
from fl_client.checks.check import Check, failed, size, span
from fl_client.config import ConfigError
from fl_client.silo import Settings

SLOW = 4096.0  # bytes a second; the hub lets go of what comes with less than 1,024
UPDATE = 2  # bytes a number of an update, as the default codec sends it


def reached(answer: float | ConfigError, address: str) -> Check:
    """Return whether the hub answers this silo; ``answer`` is what ``contact.clock`` gave or raised."""
    if isinstance(answer, ConfigError):
        return failed("hub", answer, "ask the coordinator")
    return Check("hub", True, f"{address} answers and lets this silo in")


def clock(ahead_s: float) -> Check:
    """Return whether this machine's clock and the hub's agree."""
    off = bool(clocks.warning(ahead_s))
    return Check("clock", not off, clocks.apart(ahead_s), clocks.REMEDY if off else "")


def uplink(rate: float | ConfigError, numbers: int) -> Check:
    """Return how fast the line to the hub is, and how long an update of so many numbers would take."""
    if isinstance(rate, ConfigError):
        return failed("uplink", rate, "try again later")
    found = f"{size(rate)}/s"
    if numbers:
        found += (
            f"; an update of {size(UPDATE * numbers)} takes about {span(UPDATE * numbers / rate)}"
        )
    if rate < SLOW:
        return Check("uplink", False, found, "find a faster line: below 1 kB/s the hub lets go")
    return Check("uplink", True, found)


def budget(own: Settings, rate: float) -> Check:
    """Return what ``silo.toml`` lets the line carry, and whether one update fits into the hours of one day."""
    shut, most = hours.parse(own.update_hours), own.round_bytes
    found = (
        f"at most {size(most)} of an update" if most else "updates as large as the study's codec"
    )
    if not shut.shut_s:
        return Check("budget", True, f"{found}, at any hour")
    held_up = span(shut.held_up_s(most / rate))
    found += f", {own.update_hours}; a study whose deadline_s is under {held_up} may close before"
    if most / rate > shut.open_s:
        return Check("budget", False, found, "widen update_hours, or lower round_megabytes")
    return Check("budget", True, found)


def programs(pid: int, workers: bool) -> Check:
    """Return whether the silo's programs run; ``workers`` is whether its worker group answers."""
    if not pid:
        return Check("programs", True, "none runs; `fl-client start` starts them")
    if not workers:
        found = f"the supervisor runs (pid {pid}) and the worker group is not up"
        return Check("programs", False, found, "look into logs/workers.log in the silo's folder")
    return Check("programs", True, f"gateway and worker group run (pid {pid})")
