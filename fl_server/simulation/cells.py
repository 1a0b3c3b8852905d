"""One run of several on the same silos: in a folder of its own, and never run twice."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from fl_client.config import ConfigError, Study
from fl_server.simulation import study as studies
from fl_server.simulation.pool import Crew

Report = dict[str, Any]


def held(study: Study, folder: Path) -> Report | None:
    """Return the report of this very study where its folder holds one already."""
    if not (folder / "report.json").exists():
        return None
    report: Report = json.loads((folder / "report.json").read_text("utf-8"))
    return report if report["study"] == study.model_dump(exclude={"home"}) else None


def finished(
    study: Study,
    folder: Path,
    console: Console,
    verbose: bool = False,
    alone_from: Path | None = None,
    pool: Crew | None = None,
    cohort: int = 0,
) -> Report:
    """Return a study's report, after running it, or the rest of it where it was cut short; its folder is then spent."""
    resume = (folder / "provenance.json").exists()
    report = held(study, folder) or studies.run(
        study, folder, console, resume, verbose, alone_from, pool=pool, cohort=cohort
    )
    _spend(folder)
    return report


def _spend(folder: Path) -> None:
    """Let go of what only a run that goes on needs, nearly all that it wrote; what silos reached alone is handed on.

    The journal goes first: without what silos remember it would lead to other numbers; without both a run begins anew.
    """
    for spent in (folder / "journal", *folder.glob("silos/*/memory")):
        if spent.exists():
            shutil.rmtree(spent)


def name(strategy: str) -> str:
    """Return a strategy as the name of a folder."""
    return re.sub(r"[^A-Za-z0-9]+", "-", strategy).strip("-")


def distinct(strategies: Sequence[str]) -> None:
    """Raise ``ConfigError`` where two strategies would have one folder; the same one twice counts as one."""
    held: dict[str, str] = {}
    for strategy in strategies:
        other = held.setdefault(name(strategy), strategy)
        if other != strategy:
            raise ConfigError(
                f"--strategies {other!r} and {strategy!r} would both be run in the folder {name(strategy)}; leave "
                "one of them out if they are the same, or else compare them in two commands"
            )


def reached(report: Report) -> float:
    """Return the lowest mean over languages that a run's validation bits per byte came to after any of its rounds."""
    curves = [{int(number): bits for number, bits in curve} for curve in report["curves"].values()]
    rounds = set.intersection(*map(set, curves)) - {0}  # 0 is the base, which no run releases
    means = (fmean(curve[number] for curve in curves) for number in rounds)
    return min(filter(isfinite, means), default=inf)
