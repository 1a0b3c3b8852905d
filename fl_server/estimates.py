"""What the hub believes of all silos' updates together, where the codec sends by how much each changed (``ef21``).

The mean over all silos of a group, those that are away with what they last sent, lies beside the outer optimizer's
memory. Where a silo lost its own part of it nobody can take that out of the mean, so everyone begins anew; and so they
do where silos came or left, for a mean over all is then one over others. The same holds of control variates.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from fl_server import controls
from fl_server.journal import State
from fl_server.record import Line
from fl_server.run import Run
from strategies.adapter import Adapter, under
from strategies.outer.outer import Memory

PREFIX = "estimate/"


def moved(delta: Adapter, memory: Memory, share: float) -> tuple[Adapter, Memory]:
    """Return the mean of all silos' updates, and it as memory, from the mean change of a ``share`` of them."""
    held = under(PREFIX, memory)
    mean = {n: share * x + held[n] if n in held else share * x for n, x in delta.items()}
    return mean, {PREFIX + n: x for n, x in mean.items()}


def forgotten(memory: Memory) -> Memory:
    """Return an outer optimizer's memory without what is believed of silos."""
    return {name: x for name, x in memory.items() if not name.startswith(PREFIX)}


def reset(notes: dict[str, dict[str, Any]]) -> bool:
    """Return whether a silo whose update counted in a round had lost what the hub believed of it."""
    return any(note.get("codec_reset") and "refused" not in note for note in notes.values())


def begun(recorded: list[Line], cohort: Collection[str]) -> int:
    """Return the first round since everyone began, or last began anew; that of this ``cohort`` comes next."""
    resets: list[int] = [
        line["round"] + 1 for line in recorded if line["round"] and reset(line["silos"])
    ]
    silos = [*(line["silos"].keys() for line in recorded), set(cohort)]
    changes = [number for number in range(1, len(silos)) if silos[number] != silos[number - 1]]
    return max([1, *changes, *resets])


def first(run: Run, recorded: list[Line]) -> int:
    """Return the first round since the silos of a study last began anew, 1 where the hub believes nothing of them."""
    if not (run.parts.codec.tracks or run.parts.strategy.controls):
        return 1
    return begun(recorded, [silo.name for silo in run.cohort.silos])


def anew(run: Run, state: State, recorded: list[Line]) -> State:
    """Return the state with nothing left of what the hub believed of silos, where they begin anew after it."""
    if first(run, recorded) <= state.round:
        return state
    outer = {group: forgotten(held) for group, held in state.outer.items()}
    adapter = {group: controls.forgotten(held) for group, held in state.adapter.items()}
    return state._replace(outer=outer, adapter=adapter)


def lost(recorded: list[Line], first: int = 1) -> Callable[[str], int]:
    """Return from which round on no update of a silo counted, by its name; 0 where that of the last round did.

    Rounds before ``first`` are over and count for nobody.
    """
    newest, counted = 0, dict[str, int]()
    for line in recorded:
        newest = max(newest, line["round"])
        if line["round"] >= first:
            counted |= {silo: newest for silo, note in line["silos"].items() if "weight" in note}

    def since(silo: str) -> int:
        last = counted.get(silo, 0)
        return 0 if last == newest else last + 1

    return since
