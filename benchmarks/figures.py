"""Figures on disk: one list a topic, and ``python -m benchmarks.figures`` prints them all, missed goals first."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import click
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


def at_most(figure: str, value: float, unit: str, goal: float, half: float | None = None) -> Figure:
    """Return a figure that should not exceed its goal; with ``half`` an interval, no part of it should."""
    holds = value + (half or 0.0) <= goal
    said = _known(figure, half, holds or value > goal)
    return Figure(said, round(value, 4), unit, f"<= {goal:g}", holds)


def at_least(
    figure: str, value: float, unit: str, goal: float, half: float | None = None
) -> Figure:
    """Return a figure that should reach its goal; with ``half`` an interval, all of it should."""
    holds = value - (half or 0.0) >= goal
    said = _known(figure, half, holds or value < goal)
    return Figure(said, round(value, 4), unit, f">= {goal:g}", holds)


def _known(figure: str, half: float | None, sure: bool) -> str:
    """Return a label that tells how well a figure is known, and where its mean alone would meet the goal."""
    told = "" if half is None else f" +- {half:.2f}"
    return f"{figure}{told}{'' if sure else ', not sure'}"


def true(figure: str, holds: bool) -> Figure:
    """Return a figure that should be true."""
    return Figure(figure, "yes" if holds else "no", "", "yes", holds)


def report(figure: str, value: float | str, unit: str) -> Figure:
    """Return a figure without a goal."""
    return Figure(figure, round(value, 4) if isinstance(value, float) else value, unit, None, None)


def asked() -> str:
    """Return the options that the running command was given, as one types them; empty where all are defaults.

    Where a run lies, and whether it is kept, is no part of what was measured: paths and --dry are left out.
    """
    context, told = click.get_current_context(), ""
    for known in context.command.params:
        given = context.params.get(known.name or "")
        if not isinstance(known, click.Option) or known.name == "dry":
            continue
        if isinstance(known.type, click.Path):
            continue
        if given and given != known.get_default(context):
            each = given if isinstance(given, (list, tuple)) else [given]
            told += "".join(f" {known.opts[0]}{_value(one)}" for one in each)
    return told


def _value(given: object) -> str:
    return "" if given is True else f" {shlex.quote(str(given))}"


def write(
    topic: str,
    figures: list[Figure],
    command: str,
    options: str | None = None,
    whole: bool = True,
) -> None:
    """Replace the figures that this command made before in a topic, those of the same names alone if not ``whole``.

    With ``options``, empty or not, those that it made with any options; without, the command is as it stands.
    """

    def again(row: dict[str, Any]) -> bool:
        said = row["command"]
        same = said == command or options is not None and said.startswith(f"{command} --")
        return same and (whole or row["figure"] in names)

    names = {figure.figure for figure in figures}
    kept = [row for row in held(topic) if not again(row)]
    stamp = {"command": command + (options or ""), "cpu": cpu(), "date": date.today().isoformat()}
    keep(topic, [*kept, *(figure._asdict() | stamp for figure in figures)])


def keep(topic: str, rows: list[dict[str, Any]]) -> None:
    """Write the figures of a topic as they are."""
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    (RESULTS / f"{topic}.json").write_text(text + "\n", encoding="utf-8")


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
