"""The loop of a buffered study: silos never wait for each other, and every so many updates make a commit.

All that arrives is in the record, in the order of arrival: the visit of the silo, its staleness, and its weight or why
it does not count. From that order ``replay`` makes the same bytes again. What was in no commit when a hub died is asked
again, under the same visit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fl_client.messages import Content, Reply
from fl_server import broadcast, commit, merge, record, replies, silos, visits, weighing
from fl_server.journal import State
from fl_server.merge import Merge
from fl_server.passes import Notes
from fl_server.record import Line
from fl_server.replies import Refused
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from fl_server.visits import Arrival
from strategies.accumulate import FRACTION
from strategies.adapter import Adapter
from strategies.schedules.schedule import Buffer

LOG = logging.getLogger("bhasha_fl.hub")


class Asked(NamedTuple):
    """What a silo is at work on: the commit that its adapter is of, its own count, its steps, and since when."""

    after: int
    visit: int
    steps: int
    began: float


class Held(NamedTuple):
    """What the hub holds between two commits. ``resting`` are silos that failed, and are asked after the next one."""

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


def rest(run: Run, state: State, buffer: Buffer) -> State:
    """Go on from a committed state and return the last one; raises ``RoundFailed`` where a commit takes too long."""
    held, at_work, idle = begun(run, state), dict[str, Asked](), list(run.cohort.silos)

    def again() -> list[tuple[Silo, Content]]:
        asked = _orders(run, held, buffer, idle)
        idle.clear()
        at_work.update(asked)
        return _contents(run, held, asked)

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        return run.schedule.closes(asked, answered, waiting, run.grid.now() - held.began)

    if state.round == run.study.rounds:
        return state
    for silo, reply in silos.ask(run.grid, "train", again(), closes, again):
        held = take(run, held, buffer, silo, reply, at_work[silo.name])
        (held.resting if reply.code else idle).append(silo)
        if held.counted == buffer.size:
            idle += held.resting
            held = _committed(run, held, buffer)
            if held.state.round == run.study.rounds:
                return held.state
    raise RoundFailed(_too_few(run, held, buffer))


def take(run: Run, held: Held, buffer: Buffer, silo: Silo, reply: Reply, asked: Asked) -> Held:
    """Return what the hub holds when it has taken what a silo answered: added to the merge, or refused."""
    behind, taken, merged = held.state.round - asked.after, run.grid.now(), held.merged
    one: Arrival = {"silo": silo.name, "visit": asked.visit, "staleness": behind}
    note = held.notes.setdefault(silo.name, {})
    note["up"] = note.get("up", 0) + reply.bytes
    if not reply.code:
        one |= {"steps": asked.steps, "seconds": round(taken - asked.began, 3)}
    try:
        update = _checked(run, buffer, silo, reply, asked, behind)
    except Refused as error:
        LOG.warning("an update of %s is not counted: %s", silo.name, error)
        one["refused"] = str(error)
        if "weight" not in note:
            note["refused"] = str(error)
    else:
        weights = weighing.weights(run.cohort.silos, run.parts.weights, [], {})
        weight = max(weights[silo.name] * buffer.discount(behind), 1 / FRACTION)
        groups = run.cohort.groups[silo.name]
        merged = merge.add(merged, run.parts, groups, silo.name, weight, update)
        one["weight"] = weight
        note.pop("refused", None)
        note |= replies.note(silo, reply, asked.visit) | {"up": note["up"], "weight": weight}
    return held._replace(merged=merged, arrivals=[*held.arrivals, one])


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
    adapter that it had. All states are kept, so it is for small studies.
    """
    held, states = begun(run, state), {state.round: state}
    for line in recorded:
        for one in line["arrivals"]:
            after, contents = held.state.round - one["staleness"], []
            asked = Asked(after, one["visit"], one.get("steps", 0), run.grid.now())
            if "seconds" in one:  # else the silo failed, and did not train
                then = held._replace(state=states[after])
                contents = _contents(run, then, {one["silo"]: asked})
            for silo, reply in silos.ask(run.grid, "train", contents):
                if "weight" in one:
                    held = take(run, held, buffer, silo, reply, asked)
            if "weight" not in one:
                held.arrivals.append(one)
        held = _committed(run, held, buffer)
        states[held.state.round] = held.state
    return held.state


def _orders(run: Run, held: Held, buffer: Buffer, idle: Sequence[Silo]) -> dict[str, Asked]:
    """Return what each of these silos is asked now: as many steps as its speed allows beside the fastest one's."""
    recorded, most = record.lines(run.folder), run.study.train.steps
    speeds = visits.speeds(recorded, held.arrivals)
    due, fastest = visits.due(recorded, held.arrivals), max(speeds.values(), default=1.0)
    asked = {}
    for name in (silo.name for silo in idle):
        share = buffer.share(speeds.get(name, fastest), fastest)
        steps = max(1, round(most * share))
        asked[name] = Asked(held.state.round, due(name).visit, steps, run.grid.now())
    return asked


def _contents(run: Run, held: Held, asked: Mapping[str, Asked]) -> list[tuple[Silo, Content]]:
    """Return the messages to these silos, with the adapter that the hub holds now; their bytes are noted."""
    due = visits.due(record.lines(run.folder), held.arrivals)
    own = {name: due(name)._asdict() | {"steps": one.steps} for name, one in asked.items()}
    contents = broadcast.contents(run, held.state, training=True, own=own)
    for silo, content in contents:
        note = held.notes.setdefault(silo.name, {})
        note["down"] = note.get("down", 0) + run.grid.down(silo.name, content)
    return contents


def _committed(run: Run, held: Held, buffer: Buffer) -> Held:
    arrivals: Line = {"arrivals": held.arrivals}
    merged = held.merged._replace(shares=_shares(run, held, buffer))
    return begun(run, commit.close(run, held.state, merged, held.notes, held.began, arrivals))


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


def _too_few(run: Run, held: Held, buffer: Buffer) -> str:
    heard = {name: note for name, note in held.notes.items() if "up" in note}
    return (
        f"commit {held.state.round + 1} has {held.counted} of {buffer.size} updates and took too long; "
        f"{'; '.join(replies.unheard(run.cohort.silos, heard))}. "
        f"Rounds before it are kept: continue with --resume {run.folder}"
    )
