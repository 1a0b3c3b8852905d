"""Real processes killed at named points: does every study end where it would have, and how soon is all back?

``python -m benchmarks.kills [--seeds 7,8,9]``: for each seed one study of a hub and two silos over mutual TLS, in which
every fault of ``points`` is armed in turn for ``trap``; the next one waits until the round that was broken and one more
are committed. What ends is started again by its own supervisor (``fl_client.children``, torch elastic, the hub's queue
of studies); a hub or silo that ended as a whole, by us as systemd would. A kill loses no byte that was written, as a
power cut may: that is what the fault simulation is for.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.federation import Federation, Place, free_address
from benchmarks.figures import write
from benchmarks.points import Fault, faults, functions
from benchmarks.toll import Kill, Outcome, redone, retrained, told
from fl_client.config import from_flat
from fl_server import journal

TRAP = Path(__file__).parent / "trap"
TOPIC = "kills"
ROUNDS_EACH = 3  # of the study for each fault
WAIT_S = 180.0  # how long a fault may take to fire, and then to be over
STARTS_S = 1200.0  # how long all may take to start on a busy machine
CHECKPOINT_S = 0.001  # so a checkpoint is kept after each step
STUDY = {
    "name": "kills", "train.steps": 8, "train.batch_size": 4, "train.length": 32, "model.rank": 2,
    "model.rows": "none", "train.dtype": "float32", "alone.enabled": False, "evaluate.every": 1000,
    "evaluate.characters": 100, "simulation.languages": "as,ne", "simulation.silos": 2,
    "simulation.characters": 2000, "schedule": "sync()",
}  # fmt: skip


def main(
    seeds: Annotated[str, typer.Option(help="Seeds of studies, commas between.")] = "7",
    only: Annotated[str, typer.Option(help="Only points that have this in their names.")] = "",
    most: Annotated[int, typer.Option(help="Only so many faults of each study; 0 is all.")] = 0,
    dry: Annotated[bool, typer.Option("--dry", help="Keep nothing.")] = False,
) -> None:
    """Kill, and write the figures to benchmarks/results/kills.json."""
    chosen = [fault for fault in faults() if only in fault.point][: most or None]
    figures = told([study(int(seed), chosen) for seed in seeds.split(",")])
    for figure in figures:
        print(f"{figure.figure}: {figure.value} {figure.unit} ({figure.goal or 'reported'})")
    if not dry:
        part = f" --most {most}" * bool(most) + f" --only {only}" * bool(only)
        write(TOPIC, figures, f"python -m benchmarks.kills --seeds {seeds}{part}")


def study(seed: int, chosen: list[Fault]) -> Outcome:
    """Return what comes of a study in which all that was chosen is killed, beside the same one undisturbed.

    That one is simulated, one silo at a time: trained together, silos differ in the last bits from real ones.
    """
    rounds = ROUNDS_EACH * len(chosen) + 2
    options = from_flat(STUDY | {"seed": seed, "rounds": rounds})
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        made = Federation(Path(folder), options, free_address())
        try:
            begin(made)
            kills, failed = killed(made, chosen)
            ended = made.finished(STARTS_S + 20 * rounds)["adapter_sha256"]
            print(f"the study ended with {ended}", flush=True)
        finally:
            made.end()
        made.hub.type("fl-sim run study.toml --cohort 1 --out undisturbed", wait_s=20 * rounds)
        alone = json.loads((made.hub.folder / "undisturbed" / "report.json").read_text())
        same = ended == alone["adapter_sha256"]
        return Outcome(kills, failed, same, retrained(made, kills))


def begin(made: Federation) -> None:
    """Start a federation that can be killed, and its study."""
    for place in (made.hub, *made.silos.values()):
        lay(place)
    made.begin()
    for name in made.silos:
        made.join(name, threads="1", checkpoint_s=str(CHECKPOINT_S))
    made.run()
    made.until(lambda: newest(made) >= 1, "the first round", STARTS_S)


def lay(place: Place) -> None:
    """Let what is started at a place be killed at points."""
    trap = place.folder / "trap"
    for name in ("armed", "taken", "fired"):
        (trap / name).mkdir(parents=True)
    (trap / "points").write_text("\n".join(functions()))
    paths = f"{TRAP}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    place.environment = {"BHASHA_TRAP": str(trap), "PYTHONPATH": paths}


def killed(made: Federation, chosen: list[Fault]) -> tuple[list[Kill], list[str]]:
    """Return what comes of each fault, and which did not fire or were not over in time; silos take turns."""
    silos, kills, failed = sorted(made.silos), list[Kill](), list[str]()
    for fault in chosen:
        turn = sum(kill.fault.side == "silo" for kill in kills)
        name = "hub" if fault.side == "hub" else silos[turn % len(silos)]
        try:
            kills.append(hit(made, name, fault))
            print(f"{kills[-1].back_s:6.1f} s  {fault} {name}, round {kills[-1].round}", flush=True)
        except AssertionError as error:
            failed.append(str(fault))
            print(f"FAILED  {fault} {name}: {error}", flush=True)
    return kills, failed


def hit(made: Federation, name: str, fault: Fault) -> Kill:
    """Arm a fault, wait until it fired and all is back; raises ``AssertionError`` where that takes too long."""
    place = made.silos.get(name, made.hub)
    trap, supervisor = place.folder / "trap", place.started[-1]
    asked = {"supervisor": supervisor.pid if fault.whole else 0, "skip": fault.skip}
    _put(trap / "armed" / fault.point, asked)
    if fault.after:
        _put(trap / "armed" / fault.after, {"supervisor": 0, "skip": 0})
    fired = trap / "fired" / fault.point
    try:
        made.until(fired.exists, f"{fault} to fire", WAIT_S)
    finally:
        (trap / "armed" / fault.point).unlink(missing_ok=True)
    note, last = json.loads(fired.read_text()), newest(made)
    fired.unlink()
    if fault.whole:
        supervisor.wait()
        place.start("fl-server start" if name == "hub" else "fl-client start")
    made.until(lambda: newest(made) >= last + 2, f"what follows {fault}", WAIT_S)
    back_s = time.time() - note["at"]
    return Kill(fault, name, last + 1, back_s, redone(made, place, fault, note))


def _put(token: Path, asked: dict[str, int]) -> None:
    part = token.parent.with_name("token")
    part.write_text(json.dumps(asked))
    part.rename(token)


def newest(made: Federation) -> int:
    """Return the last round that is committed."""
    folder = made.hub.folder / "hub" / "runs" / made.study.name / "journal"
    return max(journal.committed(folder), default=-1)


if __name__ == "__main__":
    typer.run(main)
