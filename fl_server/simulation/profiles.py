"""What a silo has, for a rehearsal: its line, its machine, its working hours, when line and power fail.

Some profiles are bundled (``profiles.toml``).
"""

from __future__ import annotations

import heapq
import tomllib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, ValidationError

from fl_client import hours, settings
from fl_client.config import ConfigError, Section
from fl_client.hours import Written
from fl_server.lines import Line
from fl_server.paces import Power
from fl_server.simulation import clock
from fl_server.simulation.clock import Span

BUNDLED = Path(__file__).with_name("profiles.toml")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def window(text: str) -> Span:
    """Return hours such as ``22:00-06:00`` as seconds of the day; the end may lie in the next one."""
    return Span(*hours.parse(text))


def weekdays(text: str) -> set[int]:
    """Return the days of ``mon-fri`` or ``mon,thu``, Monday being 0."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise ConfigError(f"{text!r} are no days; write them as mon-fri or mon,thu,sat")
        begin, end = DAYS.index(first), DAYS.index(last or first)
        found |= {day % 7 for day in range(begin, end + (7 if end < begin else 0) + 1)}
    return found


def _days(text: str) -> str:
    weekdays(text)
    return text


def _windows(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        window(text)
    return texts


Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Cuts(Section):
    """When something fails: at hours of every day, and at random with a mean time between two and a mean length."""

    daily: Annotated[tuple[str, ...], AfterValidator(_windows)] = ()
    every_h: Number = 0
    minutes: Number = 0

    def spans(self, key: str, start: datetime, since: float) -> Iterator[Span]:
        """Return the calendar of these cuts from a time on; those at random are drawn by ``key``."""
        windows = [window(text) for text in self.daily]
        found = [clock.daily(windows, start, since)] if windows else []
        if self.every_h and self.minutes:
            found.append(clock.drawn(key, self.every_h * 3600, self.minutes * 60))
        return heapq.merge(*found)


class Profile(Section):
    """A line, a machine and a budget. Speeds are what is really reached; a latency is that of one way."""

    uplink_bytes_s: float = Field(gt=0, allow_inf_nan=False)
    downlink_bytes_s: float = Field(gt=0, allow_inf_nan=False)
    latency_s: Number = 0
    tokens_s: Number = (
        0  # that it trains on, measured with the study's base; 0: by its GPUs or cores
    )
    gpus: int = Field(0, ge=0)
    cpus: int = Field(1, ge=1)
    hours: Written = ""
    days: Annotated[str, AfterValidator(_days)] = "mon-sun"
    power_cuts: Cuts = Cuts()
    line_cuts: Cuts = Cuts()
    checkpoint_s: Number = 30
    round_megabytes: Number = 0  # its budget, as in silo.toml
    update_hours: Written = ""

    @property
    def line(self) -> Line:
        """Return its budget."""
        return Line(int(1e6 * self.round_megabytes), self.update_hours)

    @property
    def power(self) -> Power:
        """Return what it trains with."""
        return Power(self.cpus, self.gpus, self.tokens_s, self.uplink_bytes_s)


class Place(NamedTuple):
    """A profile in time: whose it is, drawn by which key, and from which date and hour on."""

    profile: Profile
    key: str
    start: datetime

    def received(self, at: float, size: int) -> float:
        """Return when so many bytes have come; a cut of line or power holds them up, and none is sent twice."""
        return clock.ends(at, size / self.profile.downlink_bytes_s, self._cuts(at))

    def sent(self, at: float, size: int) -> float:
        """Return when so many bytes of an update are over; its hours hold it up too."""
        own = self.profile
        shut = clock.closed(window(own.update_hours), range(7), self.start, at) if size else ()
        return clock.ends(at, size / own.uplink_bytes_s, heapq.merge(self._cuts(at), shut))

    def worked(self, at: float, seconds: float) -> float:
        """Return when work is done: in working hours, and from the last checkpoint on again after a power cut."""
        if not seconds:
            return at
        own = self.profile
        shut = clock.closed(window(own.hours), weekdays(own.days), self.start, at)
        return clock.ends(at, seconds, shut, self._power(at), own.checkpoint_s)

    def _cuts(self, at: float) -> Iterator[Span]:
        line = self.profile.line_cuts.spans(f"{self.key}:line", self.start, at)
        return heapq.merge(line, self._power(at))

    def _power(self, at: float) -> Iterator[Span]:
        return self.profile.power_cuts.spans(f"{self.key}:power", self.start, at)


def bundled() -> dict[str, Profile]:
    """Return the bundled profiles by name."""
    return {name: checked(name, values) for name, values in toml(BUNDLED).items()}


def checked(name: str, values: dict[str, Any]) -> Profile:
    """Return the profile of these values; raises ``ConfigError``."""
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"profile {name}: {settings.sentence(error, Profile)}") from None


def toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file of profiles holds; raises ``ConfigError``."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"there is no profiles file {path}; give a TOML file, or some of {', '.join(bundled())}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is no profiles file: {error}") from None
