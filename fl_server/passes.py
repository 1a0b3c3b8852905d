"""How the updates of a round come in: as they arrive, or in two passes, where a first mean decides what all are asked.

A silo that is heard in the first pass and not in the second takes no part: the first mean is made again without it and
the others are asked again, until all who are asked answer, so that no sum ever mixes two sets of silos. Until then what
each silo sent lies in a file, though all that the hub needs is the weighted sum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from fl_client import messages
from fl_client.messages import Content
from fl_server import broadcast, replies, silos, weighing
from fl_server.cohort import Cohort
from fl_server.journal import State
from fl_server.replies import Refused
from fl_server.run import Run
from fl_server.shelf import shelved
from fl_server.silos import Silo
from strategies import accumulate
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.strategy import Passes, Weighted

LOG = logging.getLogger("bhasha_fl.hub")
LOST = "it answered the first pass of the round and not the second"
Asked = list[tuple[Silo, Content]]
Notes = dict[str, dict[str, Any]]  # by silo, what the record of the round holds of it
Known = Mapping[str, Adapter]  # by silo, what the hub adds to what comes


def updates(
    run: Run, state: State, contents: Asked, weights: Mapping[str, float], notes: Notes
) -> Iterator[tuple[str, Adapter]]:
    """Yield the updates that count by silo, as they arrive; why others do not is noted as ``refused``.

    Of two passes an update is what was asked in the second together with what was answered.
    """
    number, passes = state.round + 1, run.parts.strategy.passes
    if not passes or not any(broadcast.layouts(run, number, silo)[1] for silo, _ in contents):
        yield from _heard(run, "train", number, contents, {}, notes)
        return
    everyone, size, key = run.cohort.silos, run.base.sketch, f"{run.study.seed}:{number}"
    starts = broadcast.alike(run, everyone, lambda silo: broadcast.start(run, state, silo))
    begun = broadcast.alike(run, everyone, lambda s: passes.first(starts[s.name], size, key))
    ends = _lying(run, _heard(run, "train", number, contents, begun, notes))
    while run.schedule.enough(len(contents), len(ends)):
        sketches = {name: algebra.pick(end, begun[name]) for name, end in ends.items()}
        asked = bases(passes, run.cohort, sketches, weights)
        answers = _answers(run, state, passes, starts, asked, notes)
        if answers.keys() == ends.keys():
            yield from ((name, ends[name] | asked[name] | answers[name]) for name in answers)
            return
        ends = {name: end for name, end in ends.items() if name in answers}


def bases(
    passes: Passes, cohort: Cohort, sketches: Mapping[str, Adapter], weights: Mapping[str, float]
) -> dict[str, Adapter]:
    """Return what each silo is asked in the second pass, from what all in its groups sent in the first."""
    sent: dict[str, list[tuple[float, Adapter]]] = {}
    largest = weighing.largest(weights, cohort.groups)
    for name, own in sketches.items():
        for group, names in cohort.groups[name].items():
            shared = algebra.pick(own, own.keys() & set(names))
            sent.setdefault(group, []).append((weights[name] / largest[group], shared))
    asked = {
        group: passes.ask(accumulate.mean_of(shared, algebra.layout(shared[0][1])))
        for group, shared in sent.items()
    }
    return {
        name: {n: x for group in cohort.groups[name] for n, x in asked[group].items()}
        for name in sketches
    }


def _answers(
    run: Run, state: State, passes: Passes, starts: Known, asked: Known, notes: Notes
) -> dict[str, Adapter]:
    """Ask for the second pass and return the answers that count by silo; why others do not is noted."""
    present = [silo for silo in run.cohort.silos if silo.name in asked]
    known = broadcast.alike(run, present, lambda s: passes.second(starts[s.name], asked[s.name]))
    offers = broadcast.alike(run, present, lambda s: run.grid.lay_out(asked[s.name]))
    order, contents = run.base._replace(after=state.round), []
    for silo in present:
        content = messages.order(order, asked[silo.name], offers[silo.name])
        contents.append((silo, content))
        down = notes[silo.name].get("down", 0) + run.grid.down(silo.name, content)
        notes[silo.name]["down"] = down
    answers = _lying(run, _heard(run, "train.second", order.round, contents, known, notes))
    for name in asked.keys() - answers.keys():
        notes[name].setdefault("refused", LOST)
    return answers


def _lying(run: Run, heard: Iterator[tuple[str, Adapter]]) -> dict[str, Adapter]:
    """Return what was heard by silo, all of it in a file."""
    updates = (Weighted(name, 1.0, update) for name, update in heard)
    return {one.silo: one.update for one in shelved(updates, run.folder)}


def _heard(
    run: Run, kind: str, number: int, contents: Asked, known: Known, notes: Notes
) -> Iterator[tuple[str, Adapter]]:
    """Yield the replies to one pass as they arrive: checked, decoded, and with what is known added."""
    codec, seed, second = run.parts.codec, run.study.seed, kind != "train"
    refused = 0

    def closes(asked: int, answered: int, waiting: int, elapsed_s: float) -> bool:
        # Whom a round asks to spare is waited for where a reply is refused, as where none came.
        return run.schedule.closes(asked, answered - refused, waiting, elapsed_s)

    for silo, reply in silos.ask(run.grid, kind, contents, closes):
        expected = broadcast.layouts(run, number, silo)[second]
        before = notes.get(silo.name, {})
        up = {"up": before.get("up", 0) + reply.bytes}
        try:
            sent = replies.check(silo, reply, expected, number, codec, seed)
            update = _added(sent, known.get(silo.name, {}))
        except Refused as error:
            LOG.warning("round %d: the reply of %s is not counted: %s", number, silo.name, error)
            notes[silo.name] = before | up | {"refused": str(error)}
            refused += not reply.code  # a code is no answer anyway
            continue
        how = replies.note(silo, reply, number) | replies.chosen(codec, reply, expected)
        notes[silo.name] = how | before | up
        yield silo.name, update


def _added(sent: Adapter, known: Adapter) -> Adapter:
    """Return what was sent with what is known added; raises ``Refused`` beyond what the accumulator takes."""
    whole = {name: sent[name] + x for name, x in known.items()}
    if not all(accumulate.within(x) for x in whole.values()):
        raise Refused(f"with its start it holds a number beyond {accumulate.LIMIT:g}")
    return sent | whole
