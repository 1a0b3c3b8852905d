"""Which silos of a buffered study are at work on what, and how a hub that died finds that again on its disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from fl_server import buffer, intake, record, silos, visits
from fl_server import run as runs
from fl_server.buffer import Held
from fl_server.intake import Asked, Intake, Taken
from fl_server.journal import State
from fl_server.run import Run
from fl_server.silos import Silo
from fl_server.visits import Arrival, Visit
from strategies.schedules.schedule import Buffer


class Floor(NamedTuple):
    """All that the loop holds: the hub between two commits, and which silos are at work on what, idle, or away.

    Of those who are ``away``, what had come is kept, and taken as soon as they are there.
    """

    run: Run
    held: Held
    at_work: dict[str, Asked]
    idle: list[Silo]
    away: list[Taken]

    @property
    def over(self) -> bool:
        """Whether the study has had its last commit."""
        return self.held.state.round == self.run.study.rounds


def awake(held: Held, whom: Sequence[Silo]) -> list[Silo]:
    """Return those of these silos that do not rest."""
    resting = {silo.name for silo in held.resting}
    return [silo for silo in whom if silo.name not in resting]


def recalled(run: Run, state: State, rule: Buffer) -> Floor:
    """Return what is held after a commit: what had come when a hub died is taken again, from its disk.

    A silo that is not there now is kept among those at work: when it comes it is asked for the very same.
    """
    found = intake.read(run.folder, state.round)
    held, again = retaken(run, buffer.begun(run, state), rule, found.taken)
    there = {silo.name for silo in run.cohort.silos}
    away = [one for one in found.taken if one.silo not in there]
    to_come: list[Arrival] = [{"silo": one.silo, "visit": one.asked.visit} for one in away]
    at_work = {
        name: asked
        for name, asked in found.asked.items()
        if asked.after == state.round
        or asked.after < state.round
        and runs.recall(run, asked.after) is not None
    }
    due = visits.due(record.lines(run.folder), [*held.arrivals, *to_come])
    at_work = timely(at_work, at_work.keys(), due)
    intake.write(run.folder, Intake(at_work, [*again, *away]))
    return Floor(run, held, at_work, awake(held, run.cohort.silos), away)


def timely(
    at_work: Mapping[str, Asked], names: Collection[str], due: Callable[[str], Visit]
) -> dict[str, Asked]:
    """Return who is at work, without those of these names who were on another training than they have to do now."""
    return {
        name: one
        for name, one in at_work.items()
        if name not in names or one.visit == due(name).visit
    }


def retaken(run: Run, held: Held, rule: Buffer, came: Sequence[Taken]) -> tuple[Held, list[Taken]]:
    """Return what the hub holds with what came of silos that are there, taken from its disk, and which of it that is.

    Not taken is what is damaged, nor what came of that silo later: it is asked again.
    """
    known, recorded = {silo.name: silo for silo in run.cohort.silos}, record.lines(run.folder)
    taken = []
    for one in came:
        silo, visit = known.get(one.silo), visits.due(recorded, held.arrivals)(one.silo).visit
        if silo is None or one.asked.visit != visit:
            continue
        reply = silos.collected(run.grid, silo.node, one.reply)
        if reply.code != one.reply.code:
            continue
        held.notes[silo.name] = held.notes.get(silo.name, {}) | {"down": one.down}
        held = buffer.take(run, held, rule, silo, reply, one.asked, one.seconds)
        taken.append(one)
    return held, taken
