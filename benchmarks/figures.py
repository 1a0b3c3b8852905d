"""Figures on disk: one list a topic, and ``python -m benchmarks.figures`` prints them all, missed goals first."""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fl_server.provenance import cpu

RESULTS = Path(__file__).parent / "results"


class Figure(NamedTuple):
    """One measured number. ``goal`` is None where the figure is only reported."""

    figure: str
    value: float | str
    unit: str
    goal: str | None
    holds: bool | None


def at_most(figure: str, value: float, unit: str, goal: float) -> Figure:
    """Return a figure that should not exceed its goal."""
    return Figure(figure, round(value, 4), unit, f"<= {goal:g}", value <= goal)


def at_least(figure: str, value: float, unit: str, goal: float) -> Figure:
    """Return a figure that should reach its goal."""
    return Figure(figure, round(value, 4), unit, f">= {goal:g}", value >= goal)


def true(figure: str, holds: bool) -> Figure:
    """Return a figure that should be true."""
    return Figure(figure, "yes" if holds else "no", "", "yes", holds)


def report(figure: str, value: float | str, unit: str) -> Figure:
    """Return a figure without a goal."""
    return Figure(figure, round(value, 4) if isinstance(value, float) else value, unit, None, None)


def write(topic: str, figures: list[Figure], command: str, whole: bool = True) -> None:
    """Replace the figures that this command made before in a topic, those of the same names alone if not ``whole``."""
    path, again = RESULTS / f"{topic}.json", {figure.figure for figure in figures}
    kept = [
        row
        for row in held(topic)
        if row["command"] != command or not whole and row["figure"] not in again
    ]
    stamp = {"command": command, "cpu": cpu(), "date": date.today().isoformat()}
    rows = [*kept, *(figure._asdict() | stamp for figure in figures)]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def held(topic: str) -> list[dict[str, Any]]:
    """Return the figures of a topic as they are on disk, with the command, the processor and the date of each."""
    path = RESULTS / f"{topic}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return rows


def main() -> None:
    """Print every figure, missed goals first."""
    rows = [
        row | {"topic": path.stem}
        for path in sorted(RESULTS.glob("*.json"))
        for row in held(path.stem)
    ]
    rows.sort(key=lambda row: {False: 0, True: 1, None: 2}[row["holds"]])
    table = Table("", "topic", "figure", "value", "goal", "command", "date")
    marks = {False: "[red]missed[/red]", True: "[green]holds[/green]", None: ""}
    for row in rows:
        value = f"{row['value']} {row['unit']}".strip()
        goal = row["goal"] or "reported"
        table.add_row(
            marks[row["holds"]],
            row["topic"],
            row["figure"],
            value,
            goal,
            row["command"],
            row["date"],
        )
    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    main()
