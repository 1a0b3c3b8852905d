"""Real processes killed at named points: does every study end where it would have, and how soon is all back?

``python -m benchmarks.kills [--seeds 7,8,9]``: for each seed one study of a hub and two silos over mutual TLS, in which
every fault of ``points`` is armed in turn by ``trap``; the next one waits until the round that was broken and one more
are committed. What ends is started again by its own supervisor (``fl_client.children``, torch elastic, the hub's queue
of studies); a hub or silo that ended as a whole, by us as systemd would.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from benchmarks.federation import Federation, Place, free_address
from benchmarks.figures import Figure, at_least, at_most, report, write
from benchmarks.points import Fault, faults, functions
from fl_client.config import from_flat
from fl_server import journal

TRAP = Path(__file__).parent / "trap"
TOPIC = "kills"
ROUNDS_EACH = 3  # of the study for each fault
WAIT_S, LOOK_S = 600.0, 0.1  # how long a fault may take to fire, and then to be over
CHECKPOINT_S = 0.1
STUDY = {
    "name": "kills", "train.steps": 16, "train.batch_size": 4, "train.length": 32, "model.rank": 2,
    "model.rows": "none", "train.dtype": "float32", "alone.enabled": False, "evaluate.every": 1000,
    "evaluate.characters": 100, "simulation.languages": "as,ne", "simulation.silos": 2,
    "simulation.characters": 2000, "schedule": "sync()",
}  # fmt: skip
TIME = "%Y-%m-%d %H:%M:%S,%f"
TRAINED = re.compile(r"^\S+ \S+ INFO \S+ round (\d+): loss", re.MULTILINE)
TAKEN_UP = re.compile(r"^(\S+ \S+) INFO training goes on after step (\d+) of", re.MULTILINE)


class Kill(NamedTuple):
    """What came of a fault: whose, in which round, when, the seconds until all was back, the steps trained again."""

    fault: Fault
    place: str
    round: int
    back_s: float
    redone: int = 0


class Outcome(NamedTuple):
    """What came of a study: the kills, whether it ended in the same adapter, the silos that trained in vain."""

    kills: list[Kill]
    same: bool
    retrained: int


def main(
    seeds: Annotated[str, typer.Option(help="Seeds of studies, commas between.")] = "7",
    only: Annotated[str, typer.Option(help="Only points that have this in their names.")] = "",
    dry: Annotated[bool, typer.Option("--dry", help="Keep nothing.")] = False,
) -> None:
    """Kill, and write the figures to benchmarks/results/kills.json."""
    chosen = [fault for fault in faults() if only in fault.point]
    found = [study(int(seed), chosen) for seed in seeds.split(",")]
    figures = told(found)
    for figure in figures:
        print(figure)
    if not dry:
        write(TOPIC, figures, f"python -m benchmarks.kills --seeds {seeds}")


def study(seed: int, chosen: list[Fault]) -> Outcome:
    """Return what comes of a study in which all that was chosen is killed in turn."""
    rounds = ROUNDS_EACH * len(chosen) + 2
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        options = from_flat(STUDY | {"seed": seed, "rounds": rounds})
        made = Federation(Path(folder), options, free_address())
        try:
            begin(made)
            kills = list(killed(made, chosen))
            ended = made.finished(WAIT_S + 2 * rounds)["adapter_sha256"]
            again = retrained(made, kills)
        finally:
            made.end()
        made.hub.type("fl-sim run study.toml --out undisturbed")
        alone = json.loads((made.hub.folder / "undisturbed" / "report.json").read_text())
        return Outcome(kills, ended == alone["adapter_sha256"], again)


def begin(made: Federation) -> None:
    """Start a federation that can be killed, and its study."""
    for place in (made.hub, *made.silos.values()):
        lay(place)
    made.begin()
    for name in made.silos:
        made.join(name, threads="1", checkpoint_s=str(CHECKPOINT_S))
    made.run()
    made.until(lambda: newest(made) >= 1, "the first round", WAIT_S)


def lay(place: Place) -> None:
    """Let what is started at a place be killed at points."""
    trap = place.folder / "trap"
    for name in ("armed", "taken", "fired"):
        (trap / name).mkdir(parents=True)
    (trap / "points").write_text("\n".join(functions()))
    paths = f"{TRAP}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    place.environment = {"BHASHA_TRAP": str(trap), "PYTHONPATH": paths}


def killed(made: Federation, chosen: list[Fault]) -> Any:
    """Yield what comes of each fault; silos take turns."""
    silos, turn = sorted(made.silos), 0
    for fault in chosen:
        name = "hub" if fault.side == "hub" else silos[turn % len(silos)]
        turn += fault.side != "hub"
        kill = hit(made, name, fault)
        whole = f", all of {name}" if fault.whole else f" of {name}"
        print(f"round {kill.round}: {fault.point}{whole}: {kill.back_s:.1f} s", flush=True)
        yield kill


def hit(made: Federation, name: str, fault: Fault) -> Kill:
    """Arm a fault, wait until it fired and all is back, and return what came of it."""
    place = made.silos.get(name, made.hub)
    trap, supervisor = place.folder / "trap", place.started[-1]
    for point in filter(None, (fault.point, fault.after)):
        skip = fault.skip if point == fault.point else 0
        asked = {"supervisor": supervisor.pid if fault.whole else 0, "skip": skip}
        (trap / "token").write_text(json.dumps(asked))
        (trap / "token").rename(trap / "armed" / point)
    fired = trap / "fired" / fault.point
    made.until(fired.exists, f"{fault.point} to fire", WAIT_S)
    note, last = json.loads(fired.read_text()), newest(made)
    if fault.whole:
        supervisor.wait()
        place.start("fl-server start" if name == "hub" else "fl-client start")
    made.until(lambda: newest(made) >= last + 2, f"what follows {fault.point}", WAIT_S)
    (trap / "told").mkdir(exist_ok=True)
    fired.rename(trap / "told" / f"{last + 1} {fault.point}")
    return Kill(fault, name, last + 1, time.time() - note["at"], redone(made, name, note))


def newest(made: Federation) -> int:
    """Return the last round that is committed."""
    folder = made.hub.folder / "hub" / "runs" / made.study.name / "journal"
    return max(journal.committed(folder), default=-1)


def redone(made: Federation, name: str, note: dict[str, Any]) -> int:
    """Return the steps that a silo trained again, where it was killed in one, whose number was given."""
    if name == "hub" or not note["given"]:
        return 0
    log = (made.silos[name].folder / "silo" / "logs" / "workers.log").read_text()
    later = [
        int(step)
        for at, step in TAKEN_UP.findall(log)
        if datetime.strptime(at, TIME).timestamp() > note["at"]
    ]
    return int(note["given"][0]) % made.study.train.steps + 1 - (later[0] if later else 0)


def retrained(made: Federation, kills: list[Kill]) -> int:
    """Return how often a silo trained a round again whose update was durable."""
    lost = Counter((kill.place, kill.round) for kill in kills if kill.fault.lost)
    again = 0
    for name, place in made.silos.items():
        log = (place.folder / "silo" / "logs" / "workers.log").read_text()
        for number, times in Counter(map(int, TRAINED.findall(log))).items():
            again += max(0, times - 1 - lost[name, number])
    return again


def told(found: list[Outcome]) -> list[Figure]:
    """Return the figures of all studies."""
    kills = [kill for outcome in found for kill in outcome.kills]
    figures = [
        at_least(
            "studies with kills that end in the same adapter",
            100 * sum(o.same for o in found) / len(found),
            "%",
            100,
        ),
    ]
    for side, goal in (("hub", 120), ("silo", 90)):
        own = [kill for kill in kills if kill.fault.side == side]
        slowest = max(own, key=lambda kill: kill.back_s, default=None)
        figures += [
            at_least(
                f"{side}: named points at which it was killed",
                len({k.fault.point for k in own}),
                "points",
                20,
            )
        ]
        if slowest:
            figures += [
                at_most(
                    f"{side}: killed until the next round but one is committed, slowest",
                    slowest.back_s,
                    "s",
                    goal,
                ),
                report(f"{side}: where that was", slowest.fault.point, ""),
            ]
    return figures


if __name__ == "__main__":
    typer.run(main)
