"""Hours of a day, such as ``22:00-06:00``, by this machine's clock: whether it is one of them, and when it will be."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from fl_client.config import ConfigError

DAY = 86400.0
WRITTEN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


class Hours(NamedTuple):
    """A window in seconds of the day; the end may lie in the next one."""

    begin: float = 0.0
    end: float = DAY

    @property
    def open_s(self) -> float:
        """Return how long the window is."""
        return self.end - self.begin

    @property
    def shut_s(self) -> float:
        """Return how long it is shut between two."""
        return DAY - self.open_s

    def wait_s(self, now: datetime) -> float:
        """Return the seconds until it is open, 0 while it is."""
        second = now.hour * 3600.0 + now.minute * 60 + now.second
        since = (second - self.begin) % DAY
        return 0.0 if since < self.open_s else DAY - since

    def held_up_s(self, seconds: float) -> float:
        """Return the most by which work of so many seconds is held up, however it lies to the window."""
        nights = max(1, -(-seconds // self.open_s))
        return self.shut_s * nights


def parse(text: str) -> Hours:
    """Return the hours that a text names, all of the day where it is empty; raises ``ConfigError``."""
    if not text:
        return Hours()
    found = WRITTEN.fullmatch(text)
    begin, end = (
        (int(found[n]) * 3600.0 + int(found[n + 1]) * 60 for n in (1, 3)) if found else (0.0, 0.0)
    )
    if begin == end:
        raise ConfigError(f"{text!r} are no hours; write them as 08:00-18:30, not all of a day")
    return Hours(begin, end if end > begin else end + DAY)


def _checked(text: str) -> str:
    parse(text)
    return text


Written = Annotated[str, AfterValidator(_checked)]
