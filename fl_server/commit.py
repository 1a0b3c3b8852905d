"""How a round ends, whatever the schedule: the merge closes, silos are scored, record and journal are written."""

from __future__ import annotations

import logging
from collections.abc import Collection

from fl_server import broadcast, config, journal, merge, record, replies, silos
from fl_server import cohort as cohorts
from fl_server.journal import State
from fl_server.merge import Merge
from fl_server.passes import Notes
from fl_server.record import Line
from fl_server.replies import Refused
from fl_server.run import Run

LOG = logging.getLogger("bhasha_fl.hub")


def close(
    run: Run,
    state: State,
    merged: Merge,
    notes: Notes,
    began: float,
    more: Line | None = None,
    excused: Collection[str] = (),
    kept: Collection[int] = (),
) -> State:
    """Return the state after a round, committed, with ``more`` in its line; ``excused`` silos are not scored.

    Rounds that are ``kept`` stay in the journal.
    """
    after, said = merge.close(merged, run.parts, state)
    strategy, seed = run.parts.strategy, run.study.seed
    renewed = cohorts.renewed(after.adapter, strategy, seed, after.round + 1)
    after = after._replace(adapter=renewed)
    for name, score in scored(run, after, excused).items():
        note = notes.get(name, {})
        down = note.get("down", 0) + score["down"]
        notes[name] = note | score | said.get(name, {}) | {"down": down}
    line = {"round": after.round, "silos": notes, "seconds": round(run.grid.now() - began, 3)}
    keep(run, after, line | (more or {}), kept)
    return after


def scored(run: Run, state: State, excused: Collection[str] = ()) -> Notes:
    """Return what silos reach on their validation text, where it is time to ask; the last time all are asked."""
    last = state.round == run.study.rounds
    if not config.scored(run.study, run.schedule, state.round):
        return {silo.name: {"down": 0} for silo in run.cohort.silos}
    contents = [
        (silo, content)
        for silo, content in broadcast.contents(run, state)
        if last or silo.name not in excused
    ]
    notes: Notes = {silo.name: {"down": 0} for silo in run.cohort.silos}
    notes |= {silo.name: {"down": run.grid.down(silo.name, content)} for silo, content in contents}
    for silo, reply in silos.ask(run.grid, "evaluate", contents, run.schedule.scored):
        try:
            notes[silo.name]["valid"] = replies.scores(reply, "valid")
        except Refused as error:
            LOG.warning("%s was not evaluated: %s", silo.name, error)
    return notes


def keep(run: Run, state: State, line: Line, kept: Collection[int] = ()) -> None:
    """Write the line of a round, then the round itself, durably; rounds that are ``kept`` stay beside it."""
    record.append(run.folder, line)
    recorded = record.lines(run.folder)
    best = {record.best(recorded, members) for members in cohorts.components(run.cohort)}
    journal.commit(run.folder / "journal", state, best | {*kept})
    run.grid.settle()
    LOG.info("round %d is committed", state.round, extra={"event": {"kind": "round", "line": line}})
