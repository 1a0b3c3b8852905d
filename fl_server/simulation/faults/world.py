"""The machines of a trial: what happens to them and when, and what is seen of them from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from fl_client import audit, memory
from fl_client.config import ConfigError
from fl_server import journal, passes, rounds
from fl_server import run as runs
from fl_server.federation import Federation
from fl_server.freight import Freight
from fl_server.journal import State
from fl_server.run import RoundFailed, Run
from fl_server.simulation.faults import study as studies
from fl_server.simulation.faults import worker
from fl_server.simulation.faults.disk import Disk, Killed
from fl_server.simulation.faults.hub import BACK_S, Hub
from fl_server.simulation.faults.network import Network
from fl_server.simulation.faults.outcome import HUB, Faults, Trial, recorded
from fl_server.simulation.faults.silo import Silo
from fl_server.simulation.faults.study import Shape
from fl_server.simulation.faults.superlink import Superlink

LONGEST_S, MOST = 8 * 3600.0, 60  # virtual seconds, and runs of the rounds, that a study may take
AT_REST = {
    True: ("run/journal/*", "parcels/*", "spool/*/parcels/*"),
    False: ("outbox/*", "inbox/*", "studies/*/steps/*"),
}


class World:
    """All machines of a trial, and what was seen from outside of them."""

    def __init__(self, shape: Shape, faults: Faults, seed: int, root: Path) -> None:
        self._shape, self._faults = shape, faults
        draw = Random(seed)
        self.network = Network(draw, faults.weather, faults.jumps)
        machines = (HUB, *shape.names)
        self.disks = {
            name: Disk(root / name, draw, dict(faults.blows.get(name, {}))) for name in machines
        }
        self._superlink = Superlink(shape.names)
        self._hub = Hub(self.disks[HUB], self.network, self._superlink)
        self._silos = {
            name: Silo(name, shape, self.disks[name], self.network, self._hub)
            for name in shape.names
        }
        self._run = self.disks[HUB].folder / "run"
        self._run.mkdir()
        self._committed, self._whole, self._flipped = -1, -1, 0
        self._back: list[str] = []
        # who takes part, from each run's beginning and each round's end
        self._there: list[set[str]] = []
        self._met: Counter[str] = Counter()

    def studied(self) -> State | None:
        """Run the study, again and again until its last round is committed; None if it never is."""
        for name, silo in self._silos.items():
            self.network.after(self._faults.dark.get(name, 0.0), silo.start)
        for at, (machine, kind) in self._faults.kills.items():
            self.network.after(at, self._killing(machine, kind))
        for at, machine in self._faults.flips.items():
            self.network.after(at, self._flipping(machine))
        pause = 0.0
        for _ in range(MOST):
            try:
                self.network.sleep(pause)
                return rounds.run(self._begun())[1]
            except Killed:
                pause = BACK_S
                self._died()
            except (RoundFailed, ConfigError, OSError):  # somebody looks at it and resumes it
                pause = 4 * BACK_S
            if self.network.now() > LONGEST_S:
                break
        return None

    def _begun(self) -> Run:
        """Begin a run of Flower's, in which the rounds go on, and return the study as it runs there."""
        if not self._hub.up:
            self._hub.start()
        folder, number = self.disks[HUB].folder, self._superlink.begin()
        names, hub, run = list(self._shape.names), self._hub, studies.run(self._shape)
        freight = Freight(folder, run.schedule.late)
        grid = Federation(self._superlink, hub, number, names, freight)  # type: ignore[arg-type]
        grid.settle = self._settling(grid.settle)
        grid.push_messages = self._pushing(grid.push_messages)  # type: ignore[method-assign]
        grid.roomy = lambda: True  # these disks are full by the write
        nodes = grid.get_node_ids()
        self._looked()
        there = {name for node, name in enumerate(names, 1) if node in nodes}
        self._there.append(there)
        return runs.among(run, there)._replace(grid=grid, folder=self._run)

    def _looked(self) -> None:
        """Compare what the journal has with what was committed; a flipped bit may take the last round back."""
        self._whole = self._newest()
        if self._whole < self._committed - self._flipped:
            said = f"round {self._committed} was committed, and {self._whole} is the last"
            self._back.append(said)
        self._committed, self._flipped = min(self._whole, self._committed), 0

    def _newest(self) -> int:
        """Return the newest round that is whole; a damaged one is none, whatever files there are of it."""
        held = journal.recall(self._run / "journal")
        return -1 if held is None else held.round

    def _pushing(self, push: Callable[..., Iterable[str]]) -> Callable[..., Iterable[str]]:
        def pushed(messages: Iterable[Any]) -> Iterable[str]:
            # What silos are asked to begin with is there for good.
            self._committed = max(self._whole, self._committed)
            return push(messages)

        return pushed

    def _settling(self, settle: Callable[[], None]) -> Callable[[], None]:
        def settled() -> None:
            before, self._committed = self._committed, self._newest()
            if self._committed > before:  # what was acknowledged for it may go
                self._hub.acknowledged.clear()
                self._there += [set(line["silos"]) for line in recorded(self._run)[-1:]]
            settle()

        return settled

    def _died(self) -> None:
        disk = self.disks[HUB]
        if disk.dead == "power":
            self._hub.down()
        disk.revive()

    def _killing(self, machine: str, kind: str) -> Callable[[], None]:
        def killed() -> None:
            lives = machine == HUB or self._silos[machine].lives
            self._met["kills" if lives else "moot kills"] += 1
            self._die(machine, kind)

        return killed

    def _die(self, machine: str, kind: str) -> None:
        if machine == HUB:
            self.disks[HUB].die(kind)
        self._silos[machine].kill(kind)

    def _flipping(self, machine: str) -> Callable[[], None]:
        def flipped() -> None:
            disk = self.disks[machine]
            files = [p for pattern in AT_REST[machine == HUB] for p in disk.folder.glob(pattern)]
            file = disk.flip(files)
            self._met["moot flips" if file is None else "flips"] += 1
            self._flipped += file is not None and file.parent.name == "journal"
            self._die(machine, "kill")

        return flipped

    def result(self, state: State | None) -> Trial:
        """Return what came of it."""
        fired = self.network.fired + Counter(kind for d in self.disks.values() for kind in d.fired)
        last, lines = self._shape.rounds, recorded(self._run)
        fired["dark"] = len({n for line in lines for n in line["silos"].keys() - lines[0]["silos"]})
        fired["gone"] = sum(bool(one - after) for one, after in pairwise(self._there))
        fired["between"] = sum(
            note.get("refused") == passes.LOST for line in lines for note in line["silos"].values()
        )
        return Trial(
            self._shape,
            self._faults,
            state,
            lines,
            self._back,
            self._hub.gone,
            self.disks[HUB],
            self._silos,
            {n: memory.held(worker.home(s.disk.folder), last) for n, s in self._silos.items()},
            {n: sum(e.bytes for e in audit.read(s.disk.folder)) for n, s in self._silos.items()},
            {name: disk.operations for name, disk in self.disks.items()},
            self.network.now(),
            sum(one != after for one, after in pairwise(self._there)),
            fired,
            self._met,
        )
