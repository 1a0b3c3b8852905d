"""What kills cost: how soon all was back, what was trained again, and whether a study ended where it would have."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from datetime import datetime
from typing import Any, NamedTuple

from benchmarks.federation import Federation, Place
from benchmarks.figures import Figure, at_least, at_most, report
from benchmarks.points import Fault

STEP = "fl_client.train._step "
TIME = "%Y-%m-%d %H:%M:%S,%f"
TRAINED = re.compile(r"^\S+ \S+ INFO \S+ round (\d+): loss", re.MULTILINE)
TAKEN_UP = re.compile(r"^(\S+ \S+) INFO training goes on after step (\d+) of", re.MULTILINE)


class Kill(NamedTuple):
    """What came of a fault: at which place, in which round, the seconds until all was back, the steps trained again."""

    fault: Fault
    place: str
    round: int
    back_s: float
    redone: int | None


class Outcome(NamedTuple):
    """What came of a study: its kills, what did not fire or was not back, whether it ended in the same adapter.

    ``retrained`` is how often a silo trained a round again whose update was durable.
    """

    kills: list[Kill]
    failed: list[str]
    same: bool
    retrained: int


def redone(made: Federation, place: Place, fault: Fault, note: dict[str, Any]) -> int | None:
    """Return how many steps a silo that was killed in one trained again; None where it was not."""
    if not fault.point.startswith(STEP):
        return None
    log = (place.folder / "silo" / "logs" / "workers.log").read_text()
    held = [
        int(step)
        for at, step in TAKEN_UP.findall(log)
        if datetime.strptime(at, TIME).timestamp() > note["at"]
    ]
    number = int(note["given"][0])  # of the step in the study, counted from 0
    return number % made.study.train.steps + 1 - (held[0] if held else 0)


def retrained(made: Federation, kills: list[Kill]) -> int:
    """Return how often a silo trained a round again whose update was durable."""
    lost = Counter((kill.place, kill.round) for kill in kills if kill.fault.lost)
    again = 0
    for name, place in made.silos.items():
        log = (place.folder / "silo" / "logs" / "workers.log").read_text()
        for number, times in Counter(map(int, TRAINED.findall(log))).items():
            again += max(0, times - 1 - lost[name, number])
    return again


def told(found: list[Outcome]) -> list[Figure]:
    """Return the figures of all studies."""
    kills = [kill for outcome in found for kill in outcome.kills]
    failed = [name for outcome in found for name in outcome.failed]
    redone = [kill.redone for kill in kills if kill.redone is not None]
    return [
        at_least("studies that end in the adapter of the same study undisturbed",
                 100 * sum(outcome.same for outcome in found) / len(found), "%", 100),
        report("processes killed", len(kills), ""),
        at_most("points that did not fire, or after which nothing went on", len(failed), "points", 0),
        report("which", ", ".join(failed) or "none", ""),
        *_side("hub", [kill for kill in kills if kill.fault.side == "hub"], 120),
        *_side("silo", [kill for kill in kills if kill.fault.side == "silo"], 90),
        at_most("rounds trained again whose update was durable",
                sum(outcome.retrained for outcome in found), "rounds", 0),
        at_most("silo killed in a step, a checkpoint after each: trained again",
                max(redone, default=0), "steps", 1),
    ]  # fmt: skip


def _side(side: str, kills: list[Kill], goal_s: float) -> list[Figure]:
    points = {(kill.fault.point, kill.fault.whole) for kill in kills}
    seconds = [kill.back_s for kill in kills] or [0.0]
    slowest = max(kills, key=lambda kill: kill.back_s, default=None)
    what = f"{side} killed: until that round and the next are committed"
    return [
        at_least(f"{side}: named points at which it was killed", len(points), "points", 20),
        report(f"{what}, median", statistics.median(seconds), "s"),
        at_most(f"{what}, slowest", max(seconds), "s", goal_s),
        report(f"{side}: the slowest", str(slowest.fault) if slowest else "none", ""),
    ]
