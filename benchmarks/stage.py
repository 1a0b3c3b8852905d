"""Where the figures of a deployed federation are measured: studies that ask for next to nothing, silos that run."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil

from benchmarks.federation import Federation, free_address
from fl_client.config import Study

# As little work as a study can ask for: what is left is the way of the messages.
NOTHING = {
    "name": "nothing", "train.steps": 1, "train.batch_size": 1, "train.length": 8, "model.rank": 1,
    "model.rows": "none", "model.targets": "q_proj", "train.dtype": "float32", "alone.enabled": False,
    "evaluate.every": 1000, "evaluate.characters": 100, "simulation.languages": "as,ne",
    "simulation.silos": 2, "simulation.characters": 2000, "schedule": "sync()",
}  # fmt: skip


@contextmanager
def running(
    study: Study,
    address: str = "",
    listen: str = "",
    within: Mapping[str, tuple[str, ...]] | None = None,
    **settings: str,
) -> Iterator[Federation]:
    """Give a federation in which all silos of a study run."""
    with tempfile.TemporaryDirectory(prefix="bhasha-") as folder:
        made = Federation(Path(folder), study, address or free_address(), within)
        try:
            made.begin(listen)
            for name in made.silos:
                made.join(name, threads="1", **settings)
            yield made
        finally:
            made.end()


def times(log: str, what: str) -> list[float]:
    """Return when a log says something, in Unix seconds."""
    found = re.findall(rf"^(\S+ \S+) INFO {what}", log, re.MULTILINE)
    return [datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp() for at in found]


def said(made: Federation) -> str:
    """Return what the log of the study says so far."""
    log = made.hub.folder / "hub" / "queue" / made.study.name / "log.txt"
    return log.read_text() if log.exists() else ""


def kill(program: str, folder: str) -> None:
    """End one program of a hub or silo as a power cut would; raises ``RuntimeError`` if it does not run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if program in words and any(folder in word for word in words):
                found.append(process)
    if not found:
        raise RuntimeError(f"no {program} runs in {folder}")
    for process in found:
        process.kill()
