"""Runs of ``fl-sim`` on the text of shared/data, on one core; one that is there already is not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import shared
from fl_client.config import Scalar, Study, flat
from fl_client.settings import toml_value
from fl_server.simulation import heap

FL_SIM = Path(sys.executable).parent / "fl-sim"


def sim(command: str, folder: Path, settings: dict[str, Scalar], *options: str) -> None:
    """Run a command of fl-sim to its end."""
    told = [f"--set={key}={toml_value(value)}" for key, value in settings.items()]
    line = [FL_SIM, command, *options, *told, f"--data={shared.languages()}", f"--out={folder}"]
    environment = os.environ | {"GLIBC_TUNABLES": heap.TUNABLES, "OMP_NUM_THREADS": "1"}
    subprocess.run([*line, "--processes=1"], check=True, env=environment)


def report_of(folder: Path, settings: dict[str, Scalar]) -> dict[str, Any]:
    """Return the report of a study in its folder, after running it where there is none yet.

    Raises ``SystemExit`` where the folder holds a run of other settings.
    """
    path = folder / "report.json"
    if not path.exists():
        sim("run", folder, settings)
    made: dict[str, Any] = json.loads(path.read_text("utf-8"))
    held = flat(Study.model_validate(made["study"]))
    if other := [key for key, value in settings.items() if held[key] != value]:
        raise SystemExit(
            f"{folder} holds a run with another {', '.join(other)}; choose another --out"
        )
    return made
