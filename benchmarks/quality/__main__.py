"""``python -m benchmarks.quality SPLIT``: sweep a cohort, write its table and its figures; a cut-short one goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.figures import Figure, at_least, at_most, report, write
from benchmarks.quality import codecs, control, edges, gains, newcomer, page
from benchmarks.quality.runs import sim
from benchmarks.quality.splits import ADAPTING, ONE_MODEL, SPLITS, Split
from benchmarks.shared import SHARED

TABLES = Path(__file__).parent / "tables"
TOPIC = "quality"
OTHERS: dict[str, Callable[[Path], list[Figure]]] = {
    "newcomer": newcomer.figures,
    "codecs": codecs.figures,
    "control": partial(control.figures, split="same-language-of-four"),
    "control-across": partial(control.figures, split="universities-adapting"),
    **{
        f"{name}-edges": partial(edges.figures, split=name, counted=SPLITS[name].counted)
        for name in ADAPTING
    },
}
app = typer.Typer()


@app.command()
def main(
    split: Annotated[str, typer.Argument(help=f"{', '.join([*SPLITS, *OTHERS])}.")],
    out: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/quality"),
) -> None:
    """Measure one split against tuned, early-stopped silos alone."""
    if not SHARED.is_dir():
        raise typer.BadParameter(f"{SHARED} is not there: these figures need its text")
    command = f"python -m benchmarks.quality {split}"
    if split in OTHERS:
        write(TOPIC, OTHERS[split](out / split), command)
        page.write(TABLES)
        return
    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is not one of {', '.join([*SPLITS, *OTHERS])}")
    chosen = SPLITS[split]
    sweep(chosen, out / split)
    table = gains.table(out / split, chosen.counted) | {"about": chosen.about, "command": command}
    TABLES.mkdir(exist_ok=True)
    (TABLES / f"{split}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    write(TOPIC, figures(split, table), command)
    page.write(TABLES)


def sweep(split: Split, folder: Path) -> None:
    """Run what is not there yet of a split's sweep."""
    methods = (f"--strategies={name}" for name in split.strategies)
    sim(
        "sweep",
        folder,
        split.study,
        *methods,
        f"--rates={split.rates}",
        f"--seeds={split.seeds}",
        "--tune-once",
    )


def figures(split: str, table: dict[str, Any]) -> list[Figure]:
    """Return the figures of a split: its best method, by what silos serve, against the goals; then all methods."""
    methods = table["methods"]
    best = max(methods, key=lambda name: methods[name]["served"]["mean"]["mean"])
    found = []
    goals = SPLITS[split].goals
    for stage, kind in product(("served", "together"), ("mean", "worst silo")):
        value, goal = methods[best][stage][kind]["mean"], goals.get(kind)
        label = f"{split}: {stage} below alone, {kind} ({best})"
        found.append(
            report(label, value, "%") if goal is None else at_least(label, value, "%", goal)
        )
    worse = methods[best]["worse as served"]
    found.append(at_most(f"{split}: silos worse than alone as served ({best})", worse, "silos", 0))
    if split == "mixed":
        found.append(_share(table))
    for name, row in methods.items():
        for label, held in (
            ("together, mean", row["together"]["mean"]),
            ("together, least of any silo", row["together"]["least"]),
            ("served, mean", row["served"]["mean"]),
            ("served, least of any silo", row["served"]["least"]),
            ("together, mean, over alone with as many parameters", row["same capacity"]["mean"]),
        ):
            half = f" +- {held['half']:.2f}" if held["half"] is not None else ""
            found.append(report(f"{split} {name}: below alone, {label}{half}", held["mean"], "%"))
    return found


def _share(table: dict[str, Any]) -> Figure:
    """Return how much of the centralised model's gain over the base the best shared adapter has."""
    share, name = max((table["methods"][name]["share"], name) for name in ONE_MODEL)
    return at_least(f"mixed: share of the centralised gain of one adapter ({name})", share, "%", 95)


if __name__ == "__main__":
    app()
