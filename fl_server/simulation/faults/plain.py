"""The same studies without machines: silos answer what they are asked at once, and nothing ever happens to anyone.

What a trial must come to is taken from here. Rounds and trainings are the real ones; between them stands nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import memory, messages, parcels
from fl_client.parcels import OUTBOX
from fl_client.workers import Result
from fl_server import buffer, commit, rounds
from fl_server import run as runs
from fl_server.grid import Polled
from fl_server.journal import State
from fl_server.record import Line
from fl_server.run import Run
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults import worker
from fl_server.simulation.faults.folder import folder
from fl_server.simulation.faults.study import Shape
from strategies.adapter import Adapter

Who = tuple[frozenset[str], frozenset[str]]  # of a round: who takes part, and whose updates count


class Plain(NamedTuple):
    """What a study comes to: its last state, and what its silos remember."""

    state: State
    remembered: dict[str, Adapter]


class Silos:
    """Silos as Flower's grid has them, numbered from 1; the answer to a message is there as soon as it is asked for."""

    def __init__(self, shape: Shape, root: Path, counted: Sequence[frozenset[str]]) -> None:
        self._shape, self._root, self._counted = shape, root, counted
        self._asked: dict[str, Any] = {}
        self._count = 0

    def get_node_ids(self) -> list[int]:
        """Return the nodes of all silos."""
        return list(range(1, self._shape.silos + 1))

    def push_messages(self, pushed: Iterable[Any]) -> list[str]:
        """Take messages; return their keys."""
        keys = []
        for message in pushed:
            self._count += 1
            keys.append(f"message-{self._count}")
            self._asked[keys[-1]] = message
        return keys

    def pull_messages(self, keys: Iterable[str]) -> list[Any]:
        """Return the answers to these."""
        return [self._answer(self._asked.pop(key)) for key in keys]

    def _answer(self, message: Any) -> Any:
        said = message.metadata
        name = self._shape.names[said.dst_node_id - 1]
        if said.message_type == "evaluate" or not self._counts(name, int(said.group_id)):
            return messages.fault(message, "internal")
        asked = (name, self.home(name), self._shape, *messages.read_order(message))
        *_, done = worker.answer(said.message_type, *asked)
        if not isinstance(done, Result) or done.parcel is None:
            raise AssertionError(f"{name} ends with {done}")
        arrays = parcels.read(self.home(name) / OUTBOX, done.parcel)
        return messages.answer(message, done.metrics, done.facts, arrays)

    def _counts(self, name: str, number: int) -> bool:
        return not self._counted or name in self._counted[number - 1]

    def home(self, name: str) -> Path:
        """Return the folder of a silo."""
        return self._root / name


@lru_cache(maxsize=4096)
def ideal(shape: Shape, whose: Sequence[Who]) -> Plain:
    """Return what comes of a study in whose rounds these silos take part, and these of their updates count."""

    def going(run: Run) -> State:
        state, nobody = runs.first(runs.among(run, whose[0][0])), {"round": 0, "silos": {}}
        commit.keep(run, state, nobody)
        for there, _ in whose:
            here = runs.among(run, there)
            state = rounds.one(here, runs.completed(here, state))
        return state

    return _played(shape, [counted for _, counted in whose], going)


def replayed(shape: Shape, lines: Sequence[Line]) -> Plain:
    """Return what comes of a buffered study in which updates arrive in the order of these lines."""

    def again(run: Run) -> State:
        rule = run.schedule.buffer
        if rule is None:
            raise AssertionError(f"{shape.schedule} is not buffered")
        first = runs.first(runs.among(run, lines[0]["silos"]))
        return buffer.replay(run, first, rule, lines[1:])

    return _played(shape, [], again)


def _played(
    shape: Shape, counted: Sequence[frozenset[str]], going: Callable[[Run], State]
) -> Plain:
    with folder() as root:
        silos = Silos(shape, root, counted)
        for place in ("hub", *shape.names):
            (root / place).mkdir()
        run = studies.run(shape)._replace(grid=Polled(silos), folder=root / "hub")
        state = going(run)
        remembered = {
            name: memory.held(worker.home(silos.home(name)), shape.rounds) for name in shape.names
        }
    return Plain(state, remembered)
