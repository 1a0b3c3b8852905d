"""Virtual time: when a transfer or a piece of work that begins now will end, on a line and a machine with a calendar.

Times are seconds since a rehearsal began, at a local date and hour. A calendar gives what is closed, as spans in order
of their beginnings that may overlap and need not end. Everything here is a function of its arguments alone; a drawn
calendar is a function of its key.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import count
from typing import NamedTuple

from strategies import draw

DAY = 86400.0
HORIZON_S = 730 * DAY  # what is not done by then never is


class Span(NamedTuple):
    """A time in which something is closed."""

    begin: float
    end: float


def ends(
    began: float,
    seconds: float,
    pauses: Iterable[Span],
    cuts: Iterable[Span] = (),
    kept_s: float = 0.0,
) -> float:
    """Return when work of so many seconds ends, infinity if never.

    A pause adds its length. So does a cut, and what was done since the last checkpoint is done again: one is made
    after every ``kept_s`` seconds of work.
    """
    at, done = began, 0.0
    paused, cut = ((*span, False) for span in pauses), ((*span, True) for span in cuts)
    for begin, end, loses in heapq.merge(paused, cut):
        if at + seconds - done <= begin:
            break
        if end <= at:
            continue
        if begin > began + HORIZON_S:
            return math.inf
        if begin > at:
            done += begin - at
            done -= done % kept_s if loses and kept_s else 0.0
        at = end
    return at + seconds - done


def daily(hours: Sequence[Span], start: datetime, since: float = 0.0) -> Iterator[Span]:
    """Yield spans of seconds of the day on every day, from those on that are not over; one may end a day later."""
    for day in _days(start, since):
        yield from (Span(day + own.begin, day + own.end) for own in sorted(hours))


def closed(
    hours: Span, days: Collection[int], start: datetime, since: float = 0.0
) -> Iterator[Span]:
    """Yield the spans outside of working hours: ``days`` are those of the week, Monday is 0; one or more."""
    if len(days) == 7 and hours.end - hours.begin >= DAY:
        return
    before = -math.inf
    for day in _days(start, since):
        if (start.weekday() + round((day - _midnight(start)) / DAY)) % 7 in days:
            if day + hours.begin > before:
                yield Span(before, day + hours.begin)
            before = day + hours.end


def drawn(key: str, gap_s: float, length_s: float) -> Iterator[Span]:
    """Yield spans that come at random, with these means of the time between two and of their length."""
    stream, at = draw.philox(key), 0.0
    while True:
        gap, length = (-math.log((int(word) + 1) / 2**64) for word in stream.random_raw(2))
        begin = at + gap_s * gap
        at = begin + length_s * length
        yield Span(begin, at)


def _midnight(start: datetime) -> float:
    return -(start.hour * 3600.0 + start.minute * 60 + start.second)


def _days(start: datetime, since: float) -> Iterator[float]:
    """Yield midnights from two days before a time: what began then may not be over."""
    first = math.floor((since - _midnight(start)) / DAY) - 2
    return (_midnight(start) + DAY * day for day in count(first))
