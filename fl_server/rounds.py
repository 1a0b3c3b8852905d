"""The loop of rounds: broadcast, train, check, add, step, evaluate, record, commit. Without rounds: ``buffered``."""

from __future__ import annotations

import logging
from typing import Any

from fl_client import messages
from fl_server import (
    broadcast,
    buffered,
    commit,
    estimates,
    merge,
    passes,
    record,
    replies,
    silos,
    survey,
    weighing,
)
from fl_server import run as runs
from fl_server.journal import State
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo

LOG = logging.getLogger("bhasha_fl.hub")


def run(run: Run) -> tuple[Run, State]:
    """Run the study to its last round, from the newest committed one where there is one.

    Return it with the silos that came meanwhile, and its last state.
    """
    state = runs.recall(run)
    if state is None:
        state, heard = survey.begun(run, runs.first(run))
        record.rewind(run.folder, -1)
        notes = {
            silo: heard.get(silo, {}) | note for silo, note in commit.scored(run, state).items()
        }
        line = {"round": 0, "silos": notes, "seconds": 0.0}
        commit.keep(run, state, line | {"scripts": run.base.scripts})
    # This also syncs the folder of the journal, in which a process that was killed may have left the round unsynced:
    # silos are asked to begin with nothing that a power cut would take back.
    record.rewind(run.folder, state.round)
    run = _alone(run, run.cohort.silos)
    if run.schedule.buffer is not None:
        more, state = buffered.rest(run, state, run.schedule.buffer)
        return _alone(more, runs.came(run, more)), state  # who came meanwhile has held nobody up
    while state.round < run.study.rounds:
        runs.check_room(run)
        run, state = _grown(run, state)
        state = one(run, state)
    return run, state


def _grown(run: Run, state: State) -> tuple[Run, State]:
    """Return the run and its state with the silos that came since the last round."""
    more = runs.grown(run)
    if more is run:
        return run, state
    more = _alone(more, runs.came(run, more))
    return more, runs.completed(more, state)


def _alone(run: Run, whom: list[Silo]) -> Run:
    """Return the run with what these silos reached by themselves, where the study asks for that."""
    return run._replace(alone=run.alone | alone(run, whom)) if run.study.alone.enabled else run


def one(run: Run, state: State) -> State:
    """Run one round and commit it; return the next state. Raises ``RoundFailed`` below the quorum."""
    began, number = run.grid.now(), state.round + 1
    recorded = record.lines(run.folder)
    state = estimates.anew(run, state, recorded)
    asked = run.schedule.asks([s.name for s in run.cohort.silos], run.study.seed, number)
    contents = [
        (silo, content)
        for silo, content in broadcast.contents(run, state, training=True)
        if silo.name in asked
    ]
    weights = weighing.weights(run.cohort.silos, run.parts.weights, recorded, run.alone)
    largest = weighing.largest(weights, run.cohort.groups)
    merged = merge.empty(run.parts, state, run.base.sketch, run.folder, largest)
    notes: passes.Notes = {}
    for name, update in passes.updates(run, state, contents, weights, notes):
        groups = run.cohort.groups[name]
        merged = merge.add(merged, run.parts, groups, name, weights[name], update)
        notes[name]["weight"] = weights[name]
    counted = [name for name, note in notes.items() if "refused" not in note]
    if not run.schedule.enough(len(contents), len(counted)):
        why = _too_few(run, number, [silo for silo, _ in contents], counted, notes)
        raise RoundFailed(why, f"Rounds before it are kept: continue with --resume {run.folder}")
    for silo in [s for s in run.cohort.silos if s.name not in counted]:
        merged = merge.absent(merged, run.cohort.groups[silo.name], weights[silo.name])
    late = [silo.name for silo, _ in contents if silo.name not in notes]
    # Those whom the round did not wait for are still at work, and would hold up everyone's scores.
    spared = run.schedule.closes(len(contents), len(counted), len(late), 0.0)
    if late:
        told, names = logging.INFO if spared else logging.WARNING, ", ".join(late)
        LOG.log(told, "round %d closes without %s, who may be at work still", number, names)
    for silo, content in contents:
        note = notes.setdefault(silo.name, {"late": True})
        note["down"] = note.get("down", 0) + run.grid.down(silo.name, content)
    return commit.close(run, state, merged, notes, began, excused=late if spared else ())


def _too_few(
    run: Run, number: int, asked: list[Silo], counted: list[str], notes: dict[str, dict[str, Any]]
) -> str:
    needed = run.schedule.needed(len(asked))
    return (
        f"round {number} has {len(counted)} of {len(asked)} updates and needs {needed}; "
        f"{'; '.join(replies.unheard(asked, notes))}"
    )


def alone(run: Run, whom: list[Silo]) -> dict[str, float]:
    """Have each silo train by itself, once; each keeps its result. Return the bits per byte it reached."""
    contents = [(silo, messages.order(run.base)) for silo in whom]
    reached: dict[str, float] = {}
    # At each rate it takes as many steps as all rounds will, and so may take as long as they may.
    many = run.study.rounds * len(run.study.alone.lrs())
    closes = silos.after_last(run.schedule.scored, many)
    answered = set()
    for silo, reply in silos.ask(run.grid, "train.alone", contents, closes):
        answered.add(silo.name)
        if reply.code:
            LOG.warning("%s has no run of its own: %s", silo.name, messages.CODES[reply.code])
        elif "valid" in reply.metrics:
            reached[silo.name] = reply.metrics["valid"]
    late = [silo.name for silo in whom if silo.name not in answered]
    if late:
        LOG.warning("the study goes on while %s may train alone still", ", ".join(late))
    return reached
