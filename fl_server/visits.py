"""How often each silo has trained, where silos keep no common step: read from the arrivals that the record holds.

A silo's own count of trainings is to it what the number of the round is elsewhere: which text comes next, what is
remembered, which lots are drawn. An update that was in no commit when a hub died is asked again under its number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fl_server.record import Line

Arrival = dict[str, Any]  # silo, visit, steps, staleness; and weight, or why it was refused


class Visit(NamedTuple):
    """The next training of a silo, in the words of an order: ``best`` is the newest that no death of a hub undoes."""

    visit: int
    best: int
    lost: int


def arrivals(recorded: Sequence[Line]) -> list[Arrival]:
    """Return every update that a study has taken, in the order of arrival."""
    return [one for line in recorded for one in line.get("arrivals", ())]


def heard(recorded: Sequence[Line]) -> dict[str, int]:
    """Return the last commit before which each silo was heard, by its name."""
    return {one["silo"]: line["round"] for line in recorded for one in line.get("arrivals", ())}


def due(recorded: Sequence[Line], taken: Sequence[Arrival] = ()) -> Callable[[str], Visit]:
    """Return what each silo trains next, by its name, after those recorded and those ``taken`` since."""
    before = arrivals(recorded)
    kept = {one["silo"]: one["visit"] for one in before}
    newest = kept | {one["silo"]: one["visit"] for one in taken}
    counted = {one["silo"]: one["visit"] for one in [*before, *taken] if "weight" in one}

    def of(silo: str) -> Visit:
        last, sound = newest.get(silo, 0), counted.get(silo, 0)
        return Visit(last + 1, kept.get(silo, 0), 0 if sound == last else sound + 1)

    return of


def speeds(recorded: Sequence[Line], taken: Sequence[Arrival] = ()) -> dict[str, float]:
    """Return how many steps a second each silo did when it last trained, from being asked to being heard."""
    return {
        one["silo"]: one["steps"] / one["seconds"]
        for one in [*arrivals(recorded), *taken]
        if one.get("seconds", 0) > 0
    }
