"""A rehearsal: a study's own rounds in virtual time, and what came of them as plain data.

``rounds.run`` runs as it does at a hub, over silos that train nothing. A round below its quorum is tried again, as
often as a hub does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from fl_client.config import Study
from fl_server import broadcast, config, record, release, rounds, silos
from fl_server import run as runs
from fl_server.run import RoundFailed, Run
from fl_server.runner import ATTEMPTS
from fl_server.simulation import lot, scratch, standins
from fl_server.simulation.profiles import Place
from fl_server.simulation.seats import Seat
from fl_server.simulation.virtual import Errand, VirtualGrid

LOGGER = "bhasha_fl"
Table = dict[str, Any]


class Played(NamedTuple):
    """A rehearsal that was played: the grid with all that happened on it, the record, why it stopped early."""

    grid: VirtualGrid
    lines: list[record.Line]
    stopped: str


def rehearse(study: Study, seats: list[Seat], start: datetime) -> Table:
    """Return what a study would take with these silos, from a local time on; raises ``ConfigError``."""
    with scratch.folder("rehearsal-") as folder, _quiet():
        played = play(study, seats, start, folder)
    held, seconds = rows(played), played.grid.now()
    return {
        "schema": 1,
        "study": study.name,
        "start": _at(start, 0),
        "before_s": round(held[0]["began_s"] if held else seconds, 1),
        "rounds": [row | {"ended": _at(start, row["ended_s"])} for row in held],
        "silos": {seat.silo: _silo(played, seat, held) for seat in seats},
        "seconds": round(seconds, 1),
        "finish": _at(start, seconds),
        "stopped": played.stopped,
    }


def play(study: Study, seats: list[Seat], start: datetime, folder: Path) -> Played:
    """Run a study's rounds in virtual time, its record in ``folder``."""
    lot.identify()
    cast = standins.cast(study, seats)
    _, schedule = config.build(study)
    places = {s.silo: Place(s.profile, f"{study.seed}:{s.silo}", start) for s in seats}
    grid = VirtualGrid(places, cast.costs.bill, cast.answer)
    closes, scored = grid.watched(schedule.closes), grid.watched(schedule.scored)
    schedule = schedule._replace(closes=closes, scored=scored)
    run = runs.join(grid, cast.study, cast.parts, schedule, folder)
    stopped = _run(run, grid)
    return Played(grid, record.lines(folder), stopped)


def _run(run: Run, grid: VirtualGrid) -> str:
    """Run to the end and ask for the last scores; return why it stopped, '' where it did not."""
    first, failed, reached = run, 0, -1
    while True:
        try:
            _, state = rounds.run(run)
        except RoundFailed as error:
            done = len(record.lines(run.folder))
            failed, reached = (1 if done > reached else failed + 1), done
            if failed == ATTEMPTS:
                return str(error).partition(". Rounds before")[0].partition(". Nothing is")[0]
            rail = run.study.alone.model_copy(update={"enabled": False})  # it is kept at the silos
            run = run._replace(study=run.study.model_copy(update={"alone": rail}))
            grid.begin_anew()
            continue
        contents = broadcast.contents(run, state, final=True)
        release.adapt(first, contents)
        for _ in silos.ask(grid, "evaluate", contents, silos.after_last(run.schedule.scored)):
            pass
        return ""


def rows(played: Played) -> list[Table]:
    """Return a row for every try of a round, or for every commit where silos do not wait for each other."""
    commits = [line for line in played.lines if "arrivals" in line]
    return [_commit(played, line) for line in commits] if commits else tries(played)


def _commit(played: Played, line: record.Line) -> Table:
    began, ended = (played.grid.commits[number] for number in (line["round"] - 1, line["round"]))
    arrived = line["arrivals"]
    return {
        "round": line["round"],
        "committed": True,
        "began_s": round(began, 1),
        "seconds": round(ended - began, 1),
        "ended_s": round(ended, 1),
        "asked": len(arrived),
        "answered_s": max(one.get("seconds", 0.0) for one in arrived),
        "late": {one["silo"]: one.get("seconds") for one in arrived if "refused" in one},
    }


def tries(played: Played) -> list[Table]:
    """Return every try of a round: how long it took, whether it was committed, who of those asked was late."""
    grid, found = played.grid, []
    begun = sorted({(when, number) for kind, number, _, when in grid.asked if kind == "train"})
    follows = [when for when, _ in begun[1:]] + [grid.now()]
    for (when, number), after in zip(begun, follows, strict=True):
        ended = grid.commits[number] if number < len(grid.commits) else math.inf
        committed = ended <= after
        names = sorted(s for kind, _, s, at in grid.asked if (kind, at) == ("train", when))
        notes = played.lines[number]["silos"] if committed else {}
        late = [s for s in names if not _counts(grid, s, when, notes.get(s) if committed else None)]
        took = {e.silo: e.done - when for e in grid.errands if (e.kind, e.asked) == ("train", when)}
        ended = min(ended, after)
        found.append(
            {
                "round": number,
                "committed": committed,
                "began_s": round(when, 1),
                "seconds": round(ended - when, 1),
                "ended_s": round(ended, 1),
                "asked": len(names),
                "answered_s": _finite(max(took.values(), default=0.0)),
                "late": {silo: _finite(took.get(silo)) for silo in late},
            }
        )
    return found


def _counts(grid: VirtualGrid, silo: str, when: float, note: Table | None) -> bool:
    return "weight" in note if note is not None else ("train", silo, when) in grid.heard


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else round(seconds, 1)


def _silo(played: Played, seat: Seat, held: list[Table]) -> Table:
    now = played.grid.now()
    own = [errand for errand in played.grid.errands if errand.silo == seat.silo]
    asked = [when for kind, _, s, when in played.grid.asked if (kind, s) == ("train", seat.silo)]
    late = sum(seat.silo in row["late"] for row in held)
    last = [errand for errand in own if errand.kind == "train"][-1:]
    alone = [(e.kind, e.silo, e.asked) for e in own if e.kind == "train.alone"]
    return {
        "profile": seat.kind,
        "asked": len(asked),
        "late": late,
        "down": sum(errand.bill.down for errand in own),
        "up": sum(errand.bill.up for errand in own if errand.worked <= now),
        "alone_heard": all(key in played.grid.heard for key in alone),
        **_times(own, now),
        "each": _times(last) | {"bytes": sum(e.bill.down + e.bill.up for e in last)},
    }


def _times(errands: list[Errand], now: float = math.inf) -> dict[str, float]:
    """Return the seconds of work, of transfers, and of what held them up: cuts, closed hours, work done again."""
    found = {"work_s": 0.0, "line_s": 0.0, "waits_s": 0.0}
    for errand in errands:
        whole = min(errand.done, now) - errand.began
        line = min(errand.line_s, whole)
        work = min(errand.bill.work_s, whole - line)
        if math.isfinite(whole):
            for key, spent in zip(found, (work, line, whole - line - work), strict=True):
                found[key] += spent
    return {key: round(seconds, 1) for key, seconds in found.items()}


def _at(start: datetime, seconds: float) -> str:
    return (start + timedelta(seconds=seconds)).isoformat(timespec="minutes")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hub from warning of what happens in a rehearsal alone."""
    logger = logging.getLogger(LOGGER)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
