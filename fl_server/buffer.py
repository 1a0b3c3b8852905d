"""What the hub of a buffered study holds between two commits, how it takes an update, and how all is played again.

All that arrives is in the record, in the order of arrival: the visit of the silo, its staleness, and its weight or why
it does not count. From that order ``replay`` makes the same bytes again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from fl_client.messages import Content, Reply
from fl_server import broadcast, commit, merge, record, replies, silos, visits, weighing
from fl_server import run as runs
from fl_server.intake import Asked
from fl_server.journal import State
from fl_server.merge import Merge
from fl_server.passes import Notes
from fl_server.record import Line
from fl_server.replies import Refused
from fl_server.run import Run
from fl_server.silos import Silo
from fl_server.visits import Arrival
from strategies.accumulate import FRACTION
from strategies.adapter import Adapter
from strategies.schedules.schedule import Buffer

LOG = logging.getLogger("bhasha_fl.hub")


class Held(NamedTuple):
    """What the hub holds between two commits.

    ``resting`` are silos that failed, or whose update was refused and not for being late: asked again at once, such a
    silo might send the same without an end. They are asked after the next commit.
    """

    state: State
    merged: Merge
    arrivals: list[Arrival]
    notes: Notes
    resting: list[Silo]
    began: float

    @property
    def counted(self) -> int:
        """How many updates are in the merge."""
        return sum("weight" in one for one in self.arrivals)


def begun(run: Run, state: State) -> Held:
    """Return the hub after a commit, with nothing taken."""
    weights = weighing.weights(run.cohort.silos, run.parts.weights, [], {})
    largest = weighing.largest(weights, run.cohort.groups)
    merged = merge.empty(run.parts, state, run.base.sketch, run.folder, largest)
    return Held(state, merged, [], {}, [], run.grid.now())


def take(
    run: Run, held: Held, buffer: Buffer, silo: Silo, reply: Reply, asked: Asked, seconds: float
) -> Held:
    """Return what the hub holds when it has taken what a silo answered: added to the merge, or refused."""
    behind, merged, resting = held.state.round - asked.after, held.merged, held.resting
    one: Arrival = {"silo": silo.name, "visit": asked.visit, "staleness": behind}
    note = held.notes.setdefault(silo.name, {})
    note["up"] = note.get("up", 0) + reply.bytes
    if not reply.code:
        one |= {"steps": asked.steps, "seconds": seconds}
    try:
        update = _checked(run, buffer, silo, reply, asked, behind)
    except Refused as error:
        LOG.warning("an update of %s is not counted: %s", silo.name, error)
        one["refused"] = str(error)
        if "weight" not in note:
            note["refused"] = str(error)
        if reply.code or buffer.discount(behind):
            resting = [*resting, silo]
    else:
        weights = weighing.weights(run.cohort.silos, run.parts.weights, [], {})
        weight = max(weights[silo.name] * buffer.discount(behind), 1 / FRACTION)
        groups = run.cohort.groups[silo.name]
        merged = merge.add(merged, run.parts, groups, silo.name, weight, update)
        one["weight"] = weight
        note.pop("refused", None)
        note |= replies.note(silo, reply, asked.visit) | {"up": note["up"], "weight": weight}
    return held._replace(merged=merged, arrivals=[*held.arrivals, one], resting=resting)


def _checked(
    run: Run, buffer: Buffer, silo: Silo, reply: Reply, asked: Asked, behind: int
) -> Adapter:
    if not reply.code and not buffer.discount(behind):
        raise Refused(f"it is {behind} commits behind, and {buffer.longest} at most count")
    expected = broadcast.layouts(run, asked.after + 1, silo)[0]
    codec, seed = run.parts.codec, run.study.seed
    return replies.check(silo, reply, expected, asked.visit, codec, seed)


def replay(run: Run, state: State, buffer: Buffer, recorded: Sequence[Line]) -> State:
    """Return the state after these recorded commits, made again from a state before them.

    This is the plain version: silos are asked one at a time, in the order in which their updates arrived, each with the
    adapter that it had, among those who took part in the commit. All states are kept, so it is for small studies.
    """
    states = dict[int, State]()
    for line in recorded:
        here = runs.among(run, line["silos"])
        held = begun(here, runs.completed(here, state))
        states[state.round] = held.state
        for one in line["arrivals"]:
            after, sent = state.round - one["staleness"], []
            due = visits.due(record.lines(run.folder), held.arrivals)(one["silo"])
            asked = Asked(after, due._replace(visit=one["visit"]), one.get("steps", 0), None)
            if "seconds" in one:  # else the silo failed, and did not train
                then = held._replace(state=states[after])
                sent = contents(here, then, {one["silo"]: asked})
            for silo, reply in silos.ask(run.grid, "train", sent):
                if "weight" in one:
                    held = take(here, held, buffer, silo, reply, asked, one["seconds"])
            if "weight" not in one:
                held.arrivals.append(one)
        state = committed(here, held, buffer).state
    return state


def contents(run: Run, held: Held, asked: Mapping[str, Asked]) -> list[tuple[Silo, Content]]:
    """Return the messages to these silos, with the adapter that the hub holds now; their bytes are noted."""
    own = {name: one.own._asdict() | {"steps": one.steps} for name, one in asked.items()}
    contents = broadcast.contents(run, held.state, training=True, own=own)
    for silo, content in contents:
        note = held.notes.setdefault(silo.name, {})
        note["down"] = note.get("down", 0) + run.grid.down(silo.name, content)
    return contents


def committed(run: Run, held: Held, buffer: Buffer, kept: Collection[int] = ()) -> Held:
    """Return the hub after a commit of what it holds; older commits that are ``kept`` stay in the journal."""
    arrivals: Line = {"arrivals": held.arrivals}
    merged = held.merged._replace(shares=_shares(run, held, buffer))
    return begun(
        run, commit.close(run, held.state, merged, held.notes, held.began, arrivals, kept=kept)
    )


def _shares(run: Run, held: Held, buffer: Buffer) -> dict[str, float]:
    """Return of each group how much of its silos' weight came, 1 at most; a silo that is gone has none.

    It is gone when it was not heard for so long that its update would be refused.
    """
    heard = visits.heard(record.lines(run.folder))
    heard |= {one["silo"]: held.state.round for one in held.arrivals}
    since = held.state.round - buffer.longest
    weights = weighing.weights(run.cohort.silos, run.parts.weights, [], {})
    there = {name: weight for name, weight in weights.items() if heard.get(name, 0) >= since}
    counted = [(one["silo"], one["weight"]) for one in held.arrivals if "weight" in one]
    return weighing.shares(there, counted, run.cohort.groups)
