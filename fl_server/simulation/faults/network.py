"""Virtual time, and lines that lose, repeat, delay and cut off what silos say to their hub, all by one seed.

A silo asks and its hub answers, as gateways do. What was asked may have been done though no answer came back.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any, NamedTuple

PATIENCE_S = 30.0  # after which a silo asks again
EPOCH = 1_764_547_200.0  # Unix seconds at which every trial begins
Event = Callable[[], None]


class Weather(NamedTuple):
    """How bad the lines are: shares of what is lost or said twice, the longest delay, and when silos are cut off."""

    lost: float
    twice: float
    late_s: float
    cuts: dict[str, tuple[float, float]]
    until: float  # from then on nothing happens to a line


class Network:
    """The clock and the lines of one trial."""

    def __init__(self, draw: Random, weather: Weather, jumps: dict[float, float]) -> None:
        self._draw, self._weather, self._jumps = draw, weather, jumps
        self._now, self._order = 0.0, count()
        self._events: list[tuple[float, int, Event]] = []
        self.fired: Counter[str] = Counter()

    def now(self) -> float:
        """Return the seconds since the trial began."""
        return self._now

    def wall(self) -> float:
        """Return the Unix seconds by the clock on the wall, which may jump."""
        jumped = [by for at, by in self._jumps.items() if at <= self._now]
        self.fired["clock"] |= bool(jumped)
        return EPOCH + self._now + sum(jumped)

    def sleep(self, seconds: float) -> None:
        """Let time go by for the hub's rounds, while all others go on."""
        self.until(lambda: False, seconds)

    def after(self, seconds: float, event: Event) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self._now + seconds, next(self._order), event))

    def until(self, there: Callable[[], bool], seconds: float) -> None:
        """Let things happen until something is there, at most so many seconds."""
        ends = self._now + seconds
        while not there():
            if not self._events or self._events[0][0] > ends:
                self._now = ends
                return
            self._now, _, event = heapq.heappop(self._events)
            event()

    def ask(self, silo: str, arrive: Callable[[], Any], back: Callable[[Any], None]) -> None:
        """Carry a question; ``back`` gets the answer, None where none came in time.

        ``arrive`` is called where it arrives, which may be twice, and gives None where the hub is away.
        """
        answers: list[Any] = []

        def arrived(first: bool) -> None:
            answer = arrive()
            if first and answer is not None and not self._loses(silo):
                answers.append(answer)
                self.after(self._delay(), lambda: back(answer))

        def missed() -> None:
            if not answers:
                back(None)

        if not self._loses(silo):
            self.after(self._delay(), lambda: arrived(True))
            if self._happens("twice", self._weather.twice):
                self.after(self._delay() + self._delay(), lambda: arrived(False))
        self.after(PATIENCE_S, missed)

    def _loses(self, silo: str) -> bool:
        begin, end = self._weather.cuts.get(silo, (0.0, 0.0))
        if begin <= self._now < end:
            self.fired["cut"] += 1
            return True
        return self._happens("lost", self._weather.lost)

    def torn(self, size: int) -> int:
        """Return how much of a body arrives before its line breaks; mostly all."""
        if size and self._happens("broken", self._weather.lost):
            return self._draw.randrange(size)
        return size

    def _delay(self) -> float:
        late = self._happens("late", 0.1) * self._weather.late_s
        return 0.05 + self._draw.random() * (0.1 + late)

    def _happens(self, what: str, share: float) -> bool:
        happens = self._now < self._weather.until and self._draw.random() < share
        self.fired[what] += happens
        return happens
