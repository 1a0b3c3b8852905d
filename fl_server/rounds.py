"""The only loop: broadcast, train, check, add, step, evaluate, record, commit."""

from __future__ import annotations

import logging
from typing import Any

from fl_client import messages, metrics
from fl_server import (
    broadcast,
    estimates,
    journal,
    merge,
    passes,
    record,
    replies,
    silos,
    survey,
    weighing,
)
from fl_server import cohort as cohorts
from fl_server import run as runs
from fl_server.journal import State
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo

LOG = logging.getLogger("bhasha_fl.hub")


def run(run: Run) -> State:
    """Run the study to its last round, from the newest committed one where there is one; return the last state."""
    state = runs.recall(run)
    if state is None:
        state, heard = survey.begun(run, runs.first(run))
        record.rewind(run.folder, -1)
        notes = {silo: heard.get(silo, {}) | note for silo, note in _evaluated(run, state).items()}
        line = {"round": 0, "silos": notes, "seconds": 0.0}
        _commit(run, state, line | {"scripts": run.base.scripts})
    record.rewind(run.folder, state.round)
    if run.study.alone.enabled:
        run = run._replace(alone=alone(run))
    while state.round < run.study.rounds:
        state = one(run, state)
    return state


def one(run: Run, state: State) -> State:
    """Run one round and commit it; return the next state. Raises ``RoundFailed`` below the quorum."""
    began, number = run.grid.now(), state.round + 1
    recorded = record.lines(run.folder)
    asked = run.schedule.asks([s.name for s in run.cohort.silos], run.study.seed, number)
    contents = [
        (silo, content)
        for silo, content in broadcast.contents(run, state, training=True)
        if silo.name in asked
    ]
    merged = merge.empty(run.parts, state, run.base.sketch, run.folder)
    weights = weighing.weights(run.cohort.silos, run.parts.weights, recorded, run.alone)
    notes: passes.Notes = {}
    for name, update in passes.updates(run, state, contents, weights, notes):
        groups = run.cohort.groups[name]
        merged = merge.add(merged, run.parts, groups, name, weights[name], update)
        notes[name]["weight"] = weights[name]
    counted = [name for name, note in notes.items() if "refused" not in note]
    if not run.schedule.enough(len(contents), len(counted)):
        raise RoundFailed(_too_few(run, number, [silo for silo, _ in contents], counted, notes))
    for silo in [s for s in run.cohort.silos if s.name not in counted]:
        merged = merge.absent(merged, run.cohort.groups[silo.name], weights[silo.name])
    after, said = merge.close(merged, run.parts, state)
    if run.parts.codec.tracks and estimates.reset(notes):
        outer = {group: estimates.forgotten(held) for group, held in after.outer.items()}
        after = after._replace(outer=outer)
    renewed = cohorts.renewed(after.adapter, run.parts.strategy, run.study.seed, number + 1)
    after = after._replace(adapter=renewed)
    scored = _evaluated(run, after)
    sent = {silo.name: messages.size(content) for silo, content in contents}
    for name, score in scored.items():
        note = notes.get(name, {})
        down = note.get("down", 0) + score["down"] + sent.get(name, 0)
        notes[name] = note | score | said.get(name, {}) | {"down": down}
    line = {"round": number, "silos": notes, "seconds": round(run.grid.now() - began, 3)}
    _commit(run, after, line)
    return after


def _too_few(
    run: Run, number: int, asked: list[Silo], counted: list[str], notes: dict[str, dict[str, Any]]
) -> str:
    needed = run.schedule.needed(len(asked))
    return (
        f"round {number} has {len(counted)} of {len(asked)} updates and needs {needed}; "
        f"{'; '.join(replies.unheard(asked, notes))}. "
        f"Rounds before it are kept: continue with --resume {run.folder}"
    )


def _evaluated(run: Run, state: State) -> dict[str, dict[str, Any]]:
    if state.round % run.study.evaluate.every and state.round != run.study.rounds:
        return {silo.name: {"down": 0} for silo in run.cohort.silos}
    contents = broadcast.contents(run, state)
    notes: dict[str, Any] = {silo.name: {"down": messages.size(c)} for silo, c in contents}
    for silo, reply in silos.ask(run.grid, "evaluate", contents, run.schedule.closes):
        if reply.code:
            LOG.warning("%s was not evaluated: %s", silo.name, messages.CODES[reply.code])
            continue
        notes[silo.name]["valid"] = metrics.by_language(reply.metrics, "valid")
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
    run.grid.settle()
    LOG.info("round %d is committed", state.round, extra={"event": {"kind": "round", "line": line}})
