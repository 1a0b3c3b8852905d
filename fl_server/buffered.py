"""The loop of a buffered study: silos never wait for each other, and every so many updates make a commit.

What has come since the last commit is in the hub's ``intake``, from where it goes on after a death.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from fl_client.messages import Content
from fl_server import buffer, intake, record, replies, silos, visits
from fl_server import run as runs
from fl_server.buffer import Held
from fl_server.intake import Asked, Intake, Taken
from fl_server.journal import State
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from fl_server.visits import Arrival, Visit
from strategies.schedules.schedule import Buffer


def rest(run: Run, state: State, rule: Buffer) -> tuple[Run, State]:
    """Go on from a committed state; return the run with the silos that came meanwhile, and its last state.

    Raises ``RoundFailed`` where a commit takes too long.
    """
    held, at_work, away = _recalled(run, state, rule)
    idle = _awake(held, run.cohort.silos)
    run, held = _full(run, held, rule, at_work, idle, away)
    if held.state.round == run.study.rounds:
        return run, held.state

    def again() -> list[tuple[Silo, Content]]:
        if not idle:
            return []
        before = {silo.name: at_work[silo.name] for silo in idle if silo.name in at_work}
        asked = _orders(run, held, rule, [silo for silo in idle if silo.name not in at_work])
        idle.clear()
        intake.ask(run.folder, asked)
        at_work.update(asked)
        return [*_unanswered(run, held, before), *buffer.contents(run, held, asked)]

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        return run.schedule.closes(asked, answered, waiting, run.grid.now() - held.began)

    for silo, reply in silos.ask(run.grid, "train", again(), closes, again):
        asked = at_work.pop(silo.name)
        seconds, down = asked.seconds(run.grid.now()), held.notes.get(silo.name, {}).get("down", 0)
        intake.take(run.folder, Taken(silo.name, held.state.round, asked, seconds, down, reply))
        held = buffer.take(run, held, rule, silo, reply, asked, seconds)
        (held.resting if reply.code else idle).append(silo)
        run, held = _full(run, held, rule, at_work, idle, away)
        if held.state.round == run.study.rounds:
            return run, held.state
    kept = f"Rounds before it are kept: continue with --resume {run.folder}"
    raise RoundFailed(_too_few(run, held, rule), kept)


def _full(
    run: Run,
    held: Held,
    rule: Buffer,
    at_work: dict[str, Asked],
    idle: list[Silo],
    away: list[Taken],
) -> tuple[Run, Held]:
    """Return what the hub holds once it has committed, if it has enough; who rested, or came, is idle then.

    What had come of silos that are ``away`` is taken as soon as they are there.
    """
    if held.counted < rule.size:
        return run, held
    idle += held.resting
    held = buffer.committed(run, held, rule, {one.after for one in at_work.values()})
    there = {silo.name for silo in run.cohort.silos}
    for name in at_work.keys() - there:  # what it was asked by a hub that died would be refused now
        if not rule.discount(held.state.round - at_work[name].after):
            del at_work[name]
    kept = [one for one in away if rule.discount(held.state.round - one.asked.after)]
    away[:] = [one._replace(commit=held.state.round) for one in kept]
    intake.write(run.folder, Intake(at_work, away))
    if held.state.round == run.study.rounds:
        return run, held
    runs.check_room(run)
    more = runs.grown(run)
    if more is run:
        return run, held
    came = runs.came(run, more)
    held, _ = _taken(more, buffer.begun(more, runs.completed(more, held.state)), rule, away)
    names = {silo.name for silo in came}
    away[:] = [one for one in away if one.silo not in names]
    _drop(at_work, names, visits.due(record.lines(run.folder), held.arrivals))
    idle += _awake(held, came)
    return _full(more, held, rule, at_work, idle, away)


def _awake(held: Held, silos: Sequence[Silo]) -> list[Silo]:
    """Return those of these silos that do not rest."""
    resting = {silo.name for silo in held.resting}
    return [silo for silo in silos if silo.name not in resting]


def _recalled(run: Run, state: State, rule: Buffer) -> tuple[Held, dict[str, Asked], list[Taken]]:
    """Return what had come after a commit when a hub died, taken again from its disk, and who was at work on what.

    A silo that is not there now is kept among those at work: when it comes it is asked for the very same. What had come
    of it is returned too, as nothing that is held.
    """
    found = intake.read(run.folder, state.round)
    held, taken = _taken(run, buffer.begun(run, state), rule, found.taken)
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
    _drop(at_work, list(at_work), due)
    intake.write(run.folder, Intake(at_work, [*taken, *away]))
    return held, at_work, away


def _drop(at_work: dict[str, Asked], names: Collection[str], due: Callable[[str], Visit]) -> None:
    """Leave out who of these was at work on another training than it has to do now."""
    for name in names:
        if name in at_work and at_work[name].visit != due(name).visit:
            del at_work[name]


def _taken(run: Run, held: Held, rule: Buffer, came: Sequence[Taken]) -> tuple[Held, list[Taken]]:
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
        if reply.code:
            held.resting.append(silo)
    return held, taken


def _unanswered(run: Run, held: Held, at_work: Mapping[str, Asked]) -> list[tuple[Silo, Content]]:
    """Return to the byte the messages to silos that a hub which died had asked: they may have finished."""
    contents = []
    for after in sorted({one.after for one in at_work.values()}):
        state = held.state if after == held.state.round else runs.recall(run, after)
        own = {name: one for name, one in at_work.items() if one.after == after}
        if state is not None:
            contents += buffer.contents(run, held._replace(state=state), own)
    return contents


def _orders(run: Run, held: Held, rule: Buffer, idle: Sequence[Silo]) -> dict[str, Asked]:
    """Return what each of these silos is asked now: as many steps as its speed allows beside the fastest one's."""
    recorded, most = record.lines(run.folder), run.study.train.steps
    speeds = visits.speeds(recorded, held.arrivals)
    due, fastest = visits.due(recorded, held.arrivals), max(speeds.values(), default=1.0)
    asked = {}
    for name in (silo.name for silo in idle):
        share = rule.share(speeds.get(name, fastest), fastest)
        steps = max(1, round(most * share))
        asked[name] = Asked(held.state.round, due(name), steps, run.grid.now())
    return asked


def _too_few(run: Run, held: Held, rule: Buffer) -> str:
    heard = {name: note for name, note in held.notes.items() if "up" in note}
    return (
        f"commit {held.state.round + 1} has {held.counted} of {rule.size} updates and took too long; "
        f"{'; '.join(replies.unheard(run.cohort.silos, heard))}"
    )
