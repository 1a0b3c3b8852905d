"""The only loop: broadcast, train, check, add, step, evaluate, record, commit."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import messages
from fl_client.config import ConfigError, Study
from fl_client.messages import Content, Order
from fl_server import cohort as cohorts
from fl_server import journal, merge, record, silos, weighing
from fl_server.cohort import Cohort
from fl_server.journal import State
from fl_server.silos import Grid, Refused, Silo
from strategies import adapter as algebra
from strategies import combine, scope
from strategies.adapter import Adapter, Layout
from strategies.combine import Parts
from strategies.schedules.schedule import Schedule

LOG = logging.getLogger("bhasha_fl.hub")


class RoundFailed(RuntimeError):
    """Too few silos answered. What was committed is kept and can be resumed."""


class Run(NamedTuple):
    """Everything about a study that does not change from round to round."""

    grid: Grid
    study: Study
    parts: Parts
    schedule: Schedule
    folder: Path
    cohort: Cohort
    alone: dict[str, float]  # bits per byte that silos reached alone, where they told
    start: Adapter
    base: Order  # what every order of this study holds
    peft_config: dict[str, Any]


def join(grid: Grid, study: Study, parts: Parts, schedule: Schedule, folder: Path) -> Run:
    """Return the run after its silos introduced themselves and one made the seeded adapter; raises ``ConfigError``."""
    present = silos.introduce(grid)
    scripts = scope.scripts(lang for silo in present for lang in silo.counts)
    shared, peft_config = _initial(grid, present[0], Order(scripts=scripts))
    languages = {silo.name: silo.language for silo in present}
    for refusal in combine.refusals(parts, combine.Cohort(languages, tuple(shared))):
        raise ConfigError(str(refusal))
    base = Order(scripts=scripts, start_sha256=algebra.sha256(shared))
    cohort = cohorts.gather(present, parts.strategy, sorted(shared))
    LOG.info("%d silos joined: %s", len(present), ", ".join(languages))
    return Run(grid, study, parts, schedule, folder, cohort, {}, shared, base, peft_config)


def _initial(grid: Grid, silo: Silo, order: Order) -> tuple[Adapter, dict[str, Any]]:
    for _, reply in silos.ask(grid, "query.initial", [(silo, messages.order(order))]):
        if not reply.code:
            return reply.arrays, reply.facts["peft"]
        raise ConfigError(
            f"silo {silo.name} cannot make the first adapter: {messages.CODES[reply.code]}"
        )
    raise ConfigError(f"silo {silo.name} did not answer")


def run(run: Run) -> State:
    """Run the study to its last round, from the newest committed one where there is one; return the last state."""
    state = journal.recall(run.folder / "journal")
    if state is None:
        state = first(run)
        record.rewind(run.folder, -1)
        _commit(run, state, {"round": 0, "silos": _evaluated(run, state), "seconds": 0.0})
    record.rewind(run.folder, state.round)
    if run.study.alone.enabled:
        run = run._replace(alone=alone(run))
    while state.round < run.study.rounds:
        state = one(run, state)
    return state


def first(run: Run) -> State:
    """Return the state before the first round: the seeded adapter in every group, memories at their start."""
    groups = cohorts.start(run.cohort, run.start)
    outer = {group: run.parts.outer.init(adapter) for group, adapter in groups.items()}
    memory = {group: run.parts.strategy.init(adapter) for group, adapter in groups.items()}
    return State(0, groups, outer, memory)


def one(run: Run, state: State) -> State:
    """Run one round and commit it; return the next state. Raises ``RoundFailed`` below the quorum."""
    began, number = time.monotonic(), state.round + 1
    expected, recorded = sent_layout(run, number), record.lines(run.folder)
    contents = broadcast(run, state)
    merged = merge.empty(run.parts, state)
    weights = weighing.weights(run.cohort.silos, run.parts.weights, recorded, run.alone)
    notes: dict[str, dict[str, Any]] = {}
    for silo, reply in silos.ask(run.grid, "train", contents, run.schedule.closes):
        try:
            update = silos.check(silo, reply, expected, number, run.parts.codec)
        except Refused as error:
            LOG.warning("round %d: the reply of %s is not counted: %s", number, silo.name, error)
            notes[silo.name] = {"refused": str(error), "up": reply.bytes}
            continue
        groups = run.cohort.groups[silo.name]
        merged = merge.add(merged, run.parts, groups, silo.name, weights[silo.name], update)
        said = {"loss": reply.metrics.get("loss"), "ranks": messages.by_rank(reply.metrics)}
        notes[silo.name] = said | {"up": reply.bytes, "weight": weights[silo.name]}
    counted = [name for name, note in notes.items() if "refused" not in note]
    if not run.schedule.enough(len(contents), len(counted)):
        raise RoundFailed(_too_few(run, number, counted, notes))
    after = merge.close(merged, run.parts, state)
    scored = _evaluated(run, after)
    for silo, content in contents:
        note = notes.setdefault(silo.name, {}) | scored[silo.name]
        notes[silo.name] = note | {"down": note["down"] + messages.size(content)}
    line = {"round": number, "silos": notes, "seconds": round(time.monotonic() - began, 3)}
    _commit(run, after, line)
    return after


def _too_few(run: Run, number: int, counted: list[str], notes: dict[str, dict[str, Any]]) -> str:
    asked = len(run.cohort.silos)
    return (
        f"round {number} has {len(counted)} of {asked} updates and needs {run.schedule.needed(asked)}; "
        f"{'; '.join(silos.unheard(run.cohort.silos, notes))}. "
        f"Rounds before it are kept: continue with --resume {run.folder}"
    )


def sent_layout(run: Run, number: int) -> Layout:
    """Return the shapes of what each silo sends in a round."""
    shapes = algebra.layout(run.start)
    return {name: s for name, s in shapes.items() if run.parts.strategy.sent(name, number)}


def broadcast(run: Run, state: State, final: bool = False) -> list[tuple[Silo, Content]]:
    """Return what each silo is sent: its groups' tensors, less those still at the start that it makes itself."""
    recorded = record.lines(run.folder)
    contents = []
    for members in cohorts.components(run.cohort):
        best = record.best(recorded, members)
        released = released_from(run, state, best) if final else state
        order = run.base._replace(after=released.round, best=best, final=final)
        for silo in run.cohort.silos:
            if silo.name in members:
                contents.append((silo, messages.order(order, _travels(run, released, silo.name))))
    return contents


def _travels(run: Run, state: State, silo: str) -> Adapter:
    strategy = run.parts.strategy
    groups = {g: strategy.broadcast(a, state.strategy[g]) for g, a in state.adapter.items()}
    adapter = cohorts.adapter_of(run.cohort, silo, groups)
    return {n: x for n, x in adapter.items() if strategy.changed(n, state.round + 1)}


def released_from(run: Run, state: State, best: int) -> State:
    """Return the committed state of the best round (0: the state given); raises ``RoundFailed`` if it is damaged."""
    released = state if best in (0, state.round) else journal.recall(run.folder / "journal", best)
    if released is None:
        raise RoundFailed(f"the record of round {best} in {run.folder} is damaged")
    return released


def _evaluated(run: Run, state: State) -> dict[str, dict[str, Any]]:
    if state.round % run.study.evaluate.every and state.round != run.study.rounds:
        return {silo.name: {"down": 0} for silo in run.cohort.silos}
    contents = broadcast(run, state)
    notes: dict[str, Any] = {silo.name: {"down": messages.size(c)} for silo, c in contents}
    for silo, reply in silos.ask(run.grid, "evaluate", contents, run.schedule.closes):
        if reply.code:
            LOG.warning("%s was not evaluated: %s", silo.name, messages.CODES[reply.code])
            continue
        notes[silo.name]["valid"] = messages.by_language(reply.metrics, "valid")
    return notes


def alone(run: Run) -> dict[str, float]:
    """Have every silo train by itself, once; each keeps its result. Return the bits per byte it reached."""
    contents = [(silo, messages.order(run.base)) for silo in run.cohort.silos]
    reached: dict[str, float] = {}
    for silo, reply in silos.ask(run.grid, "train.alone", contents):
        if reply.code:
            LOG.warning("%s has no run of its own: %s", silo.name, messages.CODES[reply.code])
        elif "valid" in reply.metrics:
            reached[silo.name] = reply.metrics["valid"]
    return reached


def _commit(run: Run, state: State, line: record.Line) -> None:
    record.append(run.folder, line)
    recorded = record.lines(run.folder)
    best = {record.best(recorded, members) for members in cohorts.components(run.cohort)}
    journal.commit(run.folder / "journal", state, best)
    LOG.info("round %d is committed", state.round, extra={"event": {"kind": "round", "line": line}})
