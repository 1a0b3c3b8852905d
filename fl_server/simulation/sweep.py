"""Strategies, learning rates and seeds, every combination a run: what each method is worth once its rate is tuned.

Every silo alone and all text in one place try the same rates, and are always beside the methods. Each cell is a run in
a folder of its own below ``cells/``; one that is there already is not run again, so a sweep that was cut short, or that
is given one more seed, goes on where it stood. Where the rate is chosen with the first seed, the other seeds run
at that rate alone: the same rule for every method, at half the cost. Alone tries all of them with every seed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape

from fl_client.checks.check import span
from fl_client.config import Study
from fl_client.memory import write_whole
from fl_server.run import RoundFailed
from fl_server.simulation import baselines, cells, sweep_page, tuning
from fl_server.simulation import study as studies
from fl_server.simulation.cells import Report
from fl_server.simulation.choices import Choices
from fl_server.simulation.pool import Crews, Died, several

SWEPT: dict[str, Any] = {
    "home": True,
    "strategy": True,
    "seed": True,
    "train": {"lr"},
    "alone": True,
}


class Cell(NamedTuple):
    """One run of a sweep; what silos reach alone is taken over from the cell ``before`` it where it would be equal."""

    method: str
    rate: float
    seed: int
    study: Study
    before: str

    @property
    def name(self) -> str:
        """The name of its folder."""
        return cell_name(self.method, self.rate, self.seed)

    @property
    def private(self) -> int:
        """The rank of its private adapter, which silos alone have too."""
        return baselines.private_rank(self.study.strategy)

    @property
    def work(self) -> int:
        """How long it takes, in runs: training alone tries every rate, and is done once for a seed."""
        alone = self.study.alone.enabled and not self.before
        return 1 + (len(self.study.alone.lrs()) if alone else 0)


def cell_name(method: str, rate: float, seed: int) -> str:
    """Return the name of the folder of a method at a rate with a seed."""
    return f"{cells.name(method)}-{rate:g}-{seed}"


def planned(
    study: Study, swept: Choices, silos: int, chosen: Mapping[str, float] | None = None
) -> list[Cell]:
    """Return all cells, seed by seed; those of each method from the lowest rate to the highest, or the chosen one."""
    found: list[Cell] = []

    def tried(method: str) -> list[float]:
        return swept.rates if chosen is None else [chosen[method]] if method in chosen else []

    rates = ",".join(f"{rate!r}" for rate in swept.rates)
    alone = study.alone.model_copy(update={"enabled": True, "rates": rates})
    for seed in swept.seeds:
        own, before = study.model_copy(update={"seed": seed, "alone": alone}), dict[int, str]()
        for strategy in swept.strategies:
            private = baselines.private_rank(strategy)  # alone has as many parameters
            for rate in tried(strategy):
                train = own.train.model_copy(update={"lr": rate})
                variant = own.model_copy(update={"strategy": strategy, "train": train})
                found.append(Cell(strategy, rate, seed, variant, before.get(private, "")))
                before[private] = found[-1].name
        pooled = baselines.centralised(own, silos)
        central = tuning.CENTRALISED
        found += [Cell(central, rate, seed, pooled[rate], "") for rate in tried(central)]
    return found


def sweep(
    study: Study,
    swept: Choices,
    folder: Path,
    console: Console,
    verbose: bool = False,
    processes: int = 1,
    cohort: int = 0,
    crews: Crews = several,
) -> dict[str, Any]:
    """Run every cell that is not there yet; write ``sweep.json`` and ``sweep.html`` and return the former.

    A cell that breaks off, as training does at too high a rate, is told and left out. Raises ``ConfigError`` before
    anything is trained, ``RoundFailed`` where a seed has no cell at all that ended, ``Died`` where a process did.
    """
    first = study.model_copy(update={"strategy": swept.strategies[0]})
    silos = studies.prepare(first)
    begun = swept._replace(seeds=swept.seeds[:1]) if swept.first else swept
    todo = planned(study, begun, silos)
    for cell in {cell.method: cell for cell in todo}.values():
        studies.prepare(cell.study, swept.seeds)
    with crews(min(processes, silos)) as pool:
        finish = partial(cells.finished, console=console, verbose=verbose, pool=pool, cohort=cohort)
        reports, failed = run(todo, folder / "cells", console, finish)
        if swept.first:
            best = tuning.rates(_runs(todo, reports))
            others = planned(study, swept._replace(seeds=swept.seeds[1:]), silos, best)
            more = run(others, folder / "cells", console, finish)
            todo, reports, failed = todo + others, reports | more[0], failed | more[1]
    made = {
        "schema": 1,
        "study": study.model_dump(exclude=SWEPT),
        "rates": swept.rates,
        "seeds": swept.seeds,
        **tuning.tuned(_runs(todo, reports)),
        "cells": {c.name: _told(c, reports.get(c.name), failed.get(c.name)) for c in todo},
    }
    write_whole(folder / "sweep.json", json.dumps(made, indent=1, ensure_ascii=False).encode())
    write_whole(folder / "sweep.html", sweep_page.html(made).encode())
    return made


def _runs(todo: list[Cell], reports: Mapping[str, Report]) -> list[tuning.Run]:
    return [tuning.Run(c.method, c.rate, c.seed, reports.get(c.name), c.private) for c in todo]


def run(
    todo: list[Cell], folder: Path, console: Console, finish: Callable[..., Report]
) -> tuple[dict[str, Report], dict[str, str]]:
    """Run the cells that are not in the folder yet; return the reports of all, and why others have none."""
    found = {c.name: report for c in todo if (report := cells.held(c.study, folder / c.name))}
    missing, failed = [cell for cell in todo if cell.name not in found], {}
    if found:
        console.print(f"{len(found)} of {len(todo)} cells are there already")
    began, done = time.monotonic(), 0
    for number, cell in enumerate(missing):
        ahead = sum(each.work for each in missing[number:])
        left = span((time.monotonic() - began) / done * ahead) if done else ""
        console.print(
            f"[bold]cell {len(todo) - len(missing) + number + 1} of {len(todo)}[/bold]: {escape(cell.method)} "
            f"at {cell.rate:g}, seed {cell.seed}{f'; about {left} left in all' if left else ''}",
            highlight=False,
        )
        before = folder / cell.before if cell.before else None
        try:
            found[cell.name] = finish(cell.study, folder / cell.name, alone_from=before)
        except Died:
            raise  # which says nothing of the method: without this cell another rate would seem the best
        except RoundFailed as error:
            failed[cell.name] = str(error)
            console.print(
                f"[yellow]left out:[/yellow] {escape(str(error))}", highlight=False, soft_wrap=True
            )
        done += cell.work
    return found, failed


def _told(cell: Cell, report: Report | None, why: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"method": cell.method, "rate": cell.rate, "seed": cell.seed}
    if report is None:
        return told | {"failed": why}
    kept = {key: report[key] for key in ("bytes", "wall_s", "adapter_sha256")}
    return told | {"valid": tuning.valid(report), "test": tuning.mean(report["languages"])} | kept
