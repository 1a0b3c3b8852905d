"""Before round 1: silos tell sketches of their first gradients, and each group begins at what was found in the sum.

It is asked once: what was found is committed as round 0. A silo that is away then, or whose answer is refused, is left
out of the sum; a group of silos that all came later begins at what the strategy draws from the seed instead.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from fl_client import messages
from fl_server import replies, silos, weighing
from fl_server.journal import State
from fl_server.replies import Refused
from fl_server.run import RoundFailed, Run
from fl_server.silos import Silo
from strategies import accumulate, survey
from strategies import adapter as algebra
from strategies.accumulate import Sum
from strategies.adapter import Adapter, Layout

LOG = logging.getLogger("bhasha_fl.hub")
Notes = dict[str, dict[str, Any]]


def begun(run: Run, state: State) -> tuple[State, Notes]:
    """Return the first state with what was found in it, and what was heard of each silo.

    Where the strategy surveys nothing, the state as it is. Raises ``RoundFailed`` below the quorum.
    """
    wanted = run.parts.strategy.survey
    if wanted is None:
        return state, {}
    shapes = survey.sketched(wanted, algebra.layout(run.start))
    sums = {
        group: accumulate.empty({n: s for n, s in shapes.items() if n in adapter})
        for group, adapter in state.adapter.items()
    }
    notes = _gathered(run, shapes, sums)
    counted = sum("refused" not in note for note in notes.values())
    if not run.schedule.enough(len(run.cohort.silos), counted):
        begins = f"Nothing is trained yet: begin again with --resume {run.folder}"
        raise RoundFailed(_too_few(run, counted, notes), begins)
    found = {
        group: wanted.found(_mean(sums[group]), adapter, str(run.study.seed))
        for group, adapter in state.adapter.items()
    }
    return state._replace(adapter=found), notes


def _gathered(run: Run, shapes: Layout, sums: dict[str, Sum]) -> Notes:
    """Ask all silos and add what they tell to the sums of their groups; return what was heard of each."""
    weights = weighing.weights(run.cohort.silos, run.parts.weights, [], {})
    largest = weighing.largest(weights, run.cohort.groups)
    contents = [(silo, messages.order(run.base)) for silo in run.cohort.silos]
    notes: Notes = {}
    for silo, reply in silos.ask(run.grid, "query.gradient", contents, run.schedule.scored):
        notes[silo.name] = {"up": reply.bytes}
        try:
            sketches = _checked(silo, reply, shapes)
        except Refused as error:
            LOG.warning("the sketches of %s are not counted: %s", silo.name, error)
            notes[silo.name]["refused"] = str(error)
            continue
        for group in run.cohort.groups[silo.name]:
            own = algebra.pick(sketches, sums[group].totals)
            sums[group] = accumulate.add(sums[group], own, weights[silo.name] / largest[group])
    return notes


def _checked(silo: Silo, reply: messages.Reply, shapes: Layout) -> Adapter:
    """Return the sketches of a reply; raises ``Refused`` on anything but what was asked for."""
    if reply.code:
        raise Refused(messages.CODES[reply.code])
    if (reply.facts.get("silo"), reply.facts.get("round")) != (silo.name, 0):
        raise Refused(f"it answers for {reply.facts.get('silo')!r:.100}, not before round 1")
    if algebra.layout(reply.arrays) != shapes:
        raise Refused("it holds other tensors than the sketches asked for")
    if not all(x.dtype == np.float32 and accumulate.within(x) for x in reply.arrays.values()):
        raise Refused(f"it holds NaN, a number beyond {accumulate.LIMIT:g}, or is not float32")
    return reply.arrays


def _mean(running: Sum) -> Adapter:
    return accumulate.mean(running) if running.added else {}


def _too_few(run: Run, counted: int, notes: Notes) -> str:
    asked = len(run.cohort.silos)
    return (
        f"{counted} of {asked} silos told sketches of their first gradients and {run.schedule.needed(asked)} must; "
        f"{'; '.join(replies.unheard(run.cohort.silos, notes))}"
    )
