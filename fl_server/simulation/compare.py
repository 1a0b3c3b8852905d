"""Several strategies on the same silos, beside the two baselines every reader asks for: alone and centralised."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from fl_client.config import Study
from fl_client.memory import write_whole
from fl_server import report
from fl_server.simulation import baselines, cells
from fl_server.simulation import study as studies
from fl_server.simulation.cells import Report
from fl_server.simulation.pool import Crews, several


def compare(
    study: Study,
    strategies: list[str],
    folder: Path,
    console: Console,
    verbose: bool = False,
    processes: int = 1,
    cohort: int = 0,
    crews: Crews = several,
) -> dict[str, Any]:
    """Run each strategy and the pooled text in folders below ``folder``; write and return the comparison.

    Raises ``ConfigError`` before anything is trained.
    """
    cells.distinct(strategies)
    variants = {s: study.model_copy(update={"strategy": s}) for s in strategies}
    silos = studies.prepare(study)
    pooled = baselines.centralised(study, silos)
    for variant in [*variants.values(), *pooled.values()]:
        studies.prepare(variant)
    with crews(min(processes, silos)) as pool:
        finish = partial(cells.finished, console=console, verbose=verbose, pool=pool, cohort=cohort)
        runs = _federated(variants, folder, console, finish)
        central = []
        for lr, variant in pooled.items():
            console.print(f"[bold]centralised[/bold] at {lr:g}: all text in one place, all steps")
            central.append(finish(variant, folder / f"centralised-{lr:g}"))
    made = {
        "schema": 1,
        "study": study.model_dump(exclude={"home"}),
        "runs": runs,
        **baselines.alone(runs),
        "centralised": best(central),
    }
    write_whole(folder / "compare.json", json.dumps(made, indent=1, ensure_ascii=False).encode())
    write_whole(folder / "compare.html", report.compare_html(made).encode())
    return made


def _federated(
    variants: dict[str, Study], folder: Path, console: Console, finish: Callable[..., Report]
) -> dict[str, Any]:
    runs: dict[str, Any] = {}
    before: dict[int, Path] = {}
    for strategy, variant in variants.items():
        console.print(strategy, style="bold", highlight=False, markup=False)
        own, private = folder / cells.name(strategy), baselines.private_rank(strategy)
        runs[strategy] = finish(variant, own, alone_from=before.get(private))
        before[private] = own
    return runs


def best(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of the run that did best on validation, its rate, and the seconds of all."""
    chosen = min(reports, key=cells.reached)
    lr, spent = chosen["study"]["train"]["lr"], sum(report["wall_s"] for report in reports)
    return {"languages": chosen["languages"], "lr": lr, "wall_s": spent}
