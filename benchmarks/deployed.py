"""The figures of a deployed federation: real SuperLink, SuperNodes, gateways and worker groups on this machine.

``python -m benchmarks.deployed NAME`` with one of: floor.
"""

from __future__ import annotations

import re
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.federation import Federation, free_address
from benchmarks.figures import Figure, at_most, report, write
from fl_client.config import Study, from_flat

TOPIC = "deployed"
# As little work as a study can ask for: what is left is the way of the messages.
NOTHING = {
    "name": "nothing", "train.steps": 1, "train.batch_size": 1, "train.length": 8, "model.rank": 1,
    "model.rows": "none", "model.targets": "q_proj", "train.dtype": "float32", "alone.enabled": False,
    "evaluate.every": 1000, "evaluate.characters": 100, "simulation.languages": "as,ne",
    "simulation.silos": 2, "simulation.characters": 2000, "schedule": "sync()",
}  # fmt: skip
COMMITTED = re.compile(r"^(\S+ \S+) INFO round (\d+) is committed$", re.MULTILINE)

app = typer.Typer()


@app.command()
def main(name: Annotated[str, typer.Argument(help="Which figures to measure.")]) -> None:
    """Measure one group of figures and write it to benchmarks/results/deployed.json."""
    groups = {"floor": floor}
    if name not in groups:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(groups)}")
    write(TOPIC, groups[name](), f"python -m benchmarks.deployed {name}")


@contextmanager
def running(study: Study) -> Iterator[Federation]:
    """Give a federation in which all silos of a study run."""
    with tempfile.TemporaryDirectory(prefix="bhasha-") as folder:
        made = Federation(Path(folder), study, free_address())
        try:
            made.begin()
            for name in made.silos:
                made.join(name, threads="1")
            yield made
        finally:
            made.end()


def committed(made: Federation) -> dict[int, float]:
    """Return when each round of the study was committed, in Unix seconds, as its log says."""
    log = made.hub.folder / "hub" / "queue" / made.study.name / "log.txt"
    found = COMMITTED.findall(log.read_text())
    return {int(n): datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp() for at, n in found}


def floor() -> list[Figure]:
    """Measure twelve rounds of next to no training: what a round costs whatever is trained in it."""
    with running(from_flat(NOTHING | {"rounds": 14})) as made:
        made.run()
        made.finished()
        at = committed(made)
    seconds = [at[n] - at[n - 1] for n in range(2, 14)]
    label = "round floor, 2 silos on loopback"
    return [
        at_most(f"{label}: median of 12", statistics.median(seconds), "s", 1.2),
        report(f"{label}: fastest", min(seconds), "s"),
        report(f"{label}: slowest", max(seconds), "s"),
    ]


if __name__ == "__main__":
    app()
