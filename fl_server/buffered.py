"""The loop of a buffered study: silos never wait for each other, and every so many updates make a commit.

What has come since the last commit is in the hub's ``intake``, from where it goes on after a death.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fl_client.messages import Content, Reply
from fl_server import buffer, floor, intake, record, replies, silos, visits
from fl_server import run as runs
from fl_server.buffer import Held
from fl_server.floor import Floor
from fl_server.intake import Asked, Intake, Taken
from fl_server.journal import State
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from strategies.schedules.schedule import Buffer


def rest(run: Run, state: State, rule: Buffer) -> tuple[Run, State]:
    """Go on from a committed state; return the run with the silos that came meanwhile, and its last state.

    Raises ``RoundFailed`` where a commit takes too long.
    """
    now = _full(floor.recalled(run, state, rule), rule)
    if now.over:
        return now.run, now.held.state

    def again() -> list[tuple[Silo, Content]]:
        nonlocal now
        contents, now = _asked(now, rule)
        return contents

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        return run.schedule.closes(asked, answered, waiting, run.grid.now() - now.held.began)

    for silo, reply in silos.ask(run.grid, "train", again(), closes, again):
        now = _full(_heard(now, rule, silo, reply), rule)
        if now.over:
            return now.run, now.held.state
    kept = f"Rounds before it are kept: continue with --resume {run.folder}"
    raise RoundFailed(_too_few(now, rule), kept)


def _asked(now: Floor, rule: Buffer) -> tuple[list[tuple[Silo, Content]], Floor]:
    """Return what is asked of those who are idle; who was at work when a hub died is asked for the same again."""
    if not now.idle:
        return [], now
    before = {silo.name: now.at_work[silo.name] for silo in now.idle if silo.name in now.at_work}
    asked = _orders(now, rule, [silo for silo in now.idle if silo.name not in before])
    intake.ask(now.run.folder, asked)
    contents = [
        *_unanswered(now.run, now.held, before),
        *buffer.contents(now.run, now.held, asked),
    ]
    return contents, now._replace(at_work=now.at_work | asked, idle=[])


def _heard(now: Floor, rule: Buffer, silo: Silo, reply: Reply) -> Floor:
    """Return what is held once a silo answered: durable in the intake, and in the merge or refused."""
    run, held, asked = now.run, now.held, now.at_work[silo.name]
    seconds, down = asked.seconds(run.grid.now()), held.notes.get(silo.name, {}).get("down", 0)
    intake.take(run.folder, Taken(silo.name, held.state.round, asked, seconds, down, reply))
    held = buffer.take(run, held, rule, silo, reply, asked, seconds)
    idle = [*now.idle, *floor.awake(held, [silo])]
    at_work = {name: one for name, one in now.at_work.items() if name != silo.name}
    return now._replace(held=held, at_work=at_work, idle=idle)


def _full(now: Floor, rule: Buffer) -> Floor:
    """Return what is held once the hub has committed, if it has enough; who rested, or came, is idle then."""
    if now.held.counted < rule.size:
        return now
    run, idle = now.run, [*now.idle, *now.held.resting]
    held = buffer.committed(run, now.held, rule, {one.after for one in now.at_work.values()})
    there, number = {silo.name for silo in run.cohort.silos}, held.state.round
    at_work = {  # what a silo that is away was asked by a hub that died may be too old to count
        name: one
        for name, one in now.at_work.items()
        if name in there or rule.discount(number - one.after)
    }
    kept = [one for one in now.away if rule.discount(number - one.asked.after)]
    away = [one._replace(commit=number) for one in kept]
    intake.write(run.folder, Intake(at_work, away))
    now = Floor(run, held, at_work, idle, away)
    return now if now.over else _full(_grown(now, rule), rule)


def _grown(now: Floor, rule: Buffer) -> Floor:
    """Return what is held with the silos that came since, and with what had come of them before."""
    runs.check_room(now.run)
    more = runs.grown(now.run)
    if more is now.run:
        return now
    came = runs.came(now.run, more)
    held = buffer.begun(more, runs.completed(more, now.held.state))
    held, _ = floor.retaken(more, held, rule, now.away)
    names = {silo.name for silo in came}
    away = [one for one in now.away if one.silo not in names]
    due = visits.due(record.lines(more.folder), held.arrivals)
    at_work = floor.timely(now.at_work, names, due)
    return Floor(more, held, at_work, [*now.idle, *floor.awake(held, came)], away)


def _unanswered(run: Run, held: Held, at_work: Mapping[str, Asked]) -> list[tuple[Silo, Content]]:
    """Return to the byte the messages to silos that a hub which died had asked: they may have finished."""
    contents = []
    for after in sorted({one.after for one in at_work.values()}):
        state = held.state if after == held.state.round else runs.recall(run, after)
        own = {name: one for name, one in at_work.items() if one.after == after}
        if state is not None:
            contents += buffer.contents(run, held._replace(state=state), own)
    return contents


def _orders(now: Floor, rule: Buffer, idle: Sequence[Silo]) -> dict[str, Asked]:
    """Return what each of these silos is asked now: as many steps as its speed allows beside the fastest one's."""
    run, held = now.run, now.held
    recorded, most = record.lines(run.folder), run.study.train.steps
    speeds = visits.speeds(recorded, held.arrivals)
    due, fastest = visits.due(recorded, held.arrivals), max(speeds.values(), default=1.0)
    asked = {}
    for name in (silo.name for silo in idle):
        share = rule.share(speeds.get(name, fastest), fastest)
        steps = max(1, round(most * share))
        asked[name] = Asked(held.state.round, due(name), steps, run.grid.now())
    return asked


def _too_few(now: Floor, rule: Buffer) -> str:
    run, held = now.run, now.held
    heard = {name: note for name, note in held.notes.items() if "up" in note}
    return (
        f"commit {held.state.round + 1} has {held.counted} of {rule.size} updates and took too long; "
        f"{'; '.join(replies.unheard(run.cohort.silos, heard))}"
    )
