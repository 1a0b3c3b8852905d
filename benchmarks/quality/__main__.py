"""``python -m benchmarks.quality SPLIT``: sweep a cohort, write its table and its figures; a cut-short one goes on.

``python -m benchmarks.quality retold`` measures nothing: it tells the figures of all tables, and the page, anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.figures import Figure, at_least, at_most, held, keep, report, write
from benchmarks.quality import codecs, control, edges, gains, newcomer, page
from benchmarks.quality.runs import sim
from benchmarks.quality.splits import ADAPTING, ONE_MODEL, SPLITS, Split
from benchmarks.shared import SHARED

TABLES = Path(__file__).parent / "tables"
TOPIC, RETOLD = "quality", "retold"
MEASURED = ("command", "cpu", "date")
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
    split: Annotated[str, typer.Argument(help=f"{', '.join([*SPLITS, *OTHERS, RETOLD])}.")],
    out: Annotated[Path, typer.Option(help="Where the runs lie.")] = Path("runs/quality"),
) -> None:
    """Measure one split against tuned, early-stopped silos alone."""
    if split == RETOLD:
        retold()
        return
    if not SHARED.is_dir():
        raise typer.BadParameter(f"{SHARED} is not there: these figures need its text")
    command = f"python -m benchmarks.quality {split}"
    if split in OTHERS:
        write(TOPIC, OTHERS[split](out / split), command)
        page.write(TABLES)
        return
    if split not in SPLITS:
        raise typer.BadParameter(f"{split!r} is not one of {', '.join([*SPLITS, *OTHERS, RETOLD])}")
    chosen = SPLITS[split]
    sweep(chosen, out / split)
    table = gains.table(out / split, chosen.counted) | {"about": chosen.about, "command": command}
    TABLES.mkdir(exist_ok=True)
    (TABLES / f"{split}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    write(TOPIC, figures(split, table), command)
    page.write(TABLES)


def retold() -> None:
    """Write the figures of all tables anew, each as of the processor and the date of its measurement, and the page."""
    rows = held(TOPIC)
    for path in sorted(TABLES.glob("*.json")):
        table = json.loads(path.read_text("utf-8"))
        own = [row for row in rows if row["command"] == table["command"]]
        if not own:
            continue
        at, measured = rows.index(own[0]), {key: own[0][key] for key in MEASURED}
        told = [figure._asdict() | measured for figure in figures(path.stem, table)]
        rows = [*rows[:at], *told, *(row for row in rows[at:] if row not in own)]
    keep(TOPIC, [codecs.judged(row) for row in rows])
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
        reached, goal = methods[best][stage][kind], goals.get(kind)
        label = f"{split}: {stage} below alone, {kind} ({best})"
        found.append(
            report(label, reached["mean"], "%")
            if goal is None
            else at_least(label, reached["mean"], "%", goal, reached["half"])
        )
    worse = methods[best]["worse as served"]
    found.append(at_most(f"{split}: silos worse than alone as served ({best})", worse, "silos", 0))
    found += _share(split, table)
    for name, row in methods.items():
        for label, gain in (
            ("together, mean", row["together"]["mean"]),
            ("together, least of any silo", row["together"]["least"]),
            ("served, mean", row["served"]["mean"]),
            ("served, least of any silo", row["served"]["least"]),
            ("together, mean, over alone with as many parameters", row["same capacity"]["mean"]),
        ):
            half = f" +- {gain['half']:.2f}" if gain["half"] is not None else ""
            found.append(report(f"{split} {name}: below alone, {label}{half}", gain["mean"], "%"))
    return found


def _share(split: str, table: dict[str, Any]) -> list[Figure]:
    """Return how much of the centralised model's gain over the base one adapter of all has, the best of those tried.

    The goal is that of mixed silos; with one language each it is only reported.
    """
    shares = {
        name: table["methods"][name]["share"] for name in ONE_MODEL if name in table["methods"]
    }
    if not shares:
        return []
    best = max(shares, key=lambda name: shares[name])
    label = f"{split}: share of the centralised gain of one adapter ({best})"
    told = (
        at_least(label, shares[best], "%", 95)
        if split == "mixed"
        else report(label, shares[best], "%")
    )
    return [told]


if __name__ == "__main__":
    app()
