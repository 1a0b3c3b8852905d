"""Several strategies on the same silos, beside the two baselines every reader asks for: alone and centralised."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rich.console import Console

from fl_client.config import Study
from fl_client.memory import write_whole
from fl_server import report
from fl_server.simulation import study as studies


def compare(
    study: Study,
    strategies: list[str],
    folder: Path,
    console: Console,
    verbose: bool = False,
    processes: int = 1,
) -> dict[str, Any]:
    """Run each strategy and the pooled text in folders below ``folder``; write and return the comparison."""
    runs: dict[str, Any] = {}
    before: Path | None = None
    variants = {s: study.model_copy(update={"strategy": s}) for s in strategies}
    pooled = centralised(study, studies.prepare(study))
    for variant in [*variants.values(), *pooled.values()]:
        studies.prepare(variant)
    for strategy, variant in variants.items():
        console.print(f"[bold]{strategy}[/bold]", highlight=False)
        own = folder / _name(strategy)
        runs[strategy] = _finished(variant, own, console, verbose, before, processes)
        before = own
    central = []
    for lr, variant in pooled.items():
        console.print(f"[bold]centralised[/bold] at {lr:g}: all text in one place, all steps")
        central.append(_finished(variant, folder / f"centralised-{lr:g}", console, verbose))
    made = {
        "schema": 1,
        "study": study.model_dump(exclude={"home"}),
        "runs": runs,
        "local_only": local_only(next(iter(runs.values()))),
        "centralised": best(central),
    }
    write_whole(folder / "compare.json", json.dumps(made, indent=1, ensure_ascii=False).encode())
    write_whole(folder / "compare.html", report.compare_html(made).encode())
    return made


def centralised(study: Study, silos: int) -> dict[float, Study]:
    """Return, by learning rate, the study in which one silo holds all text and takes every silo's steps."""
    shared = {
        "strategy": "fedavg(lora='everyone', rows='everyone')",
        "weights": "uniform()",
        "alone": study.alone.model_copy(update={"enabled": False}),
        "simulation": study.simulation.model_copy(update={"pooled": True}),
    }
    steps = study.train.steps * silos
    return {
        lr: study.model_copy(
            update=shared | {"train": study.train.model_copy(update={"steps": steps, "lr": lr})}
        )
        for lr in study.alone.lrs()
    }


def best(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the scores of the run that did best on validation, its rate, and the seconds of all."""
    chosen = min(reports, key=reached)
    lr, spent = chosen["study"]["train"]["lr"], sum(report["wall_s"] for report in reports)
    return {"languages": chosen["languages"], "lr": lr, "wall_s": spent}


def reached(report: dict[str, Any]) -> float:
    """Return the lowest mean over languages that a run's validation bits per byte came to."""
    curves = report["curves"].values()
    means = [
        sum(values) / len(values)
        for values in zip(*([y for _, y in c] for c in curves), strict=True)
    ]
    return float(min(means))


def local_only(run: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a run's silos training alone, in the shape of a run's own."""
    return {
        "languages": {
            lang: {"before": row["before"], "after": row["alone"]}
            for lang, row in run["languages"].items()
        },
        "silo_scores": {
            name: {"language": own["language"], "before": own["before"], "after": own["alone"]}
            for name, own in run["silo_scores"].items()
        },
    }


def _finished(
    study: Study,
    folder: Path,
    console: Console,
    verbose: bool,
    alone_from: Path | None = None,
    processes: int = 1,
) -> dict[str, Any]:
    # A comparison that was cut short is taken up again where it stopped.
    if (folder / "report.json").exists():
        held: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
        if held["study"] == study.model_dump(exclude={"home"}):
            return held
    resume = (folder / "provenance.json").exists()
    return studies.run(study, folder, console, resume, verbose, alone_from, processes)


def _name(strategy: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", strategy).strip("-")
