"""``fl-sim rehearse``: a study in virtual time, before anyone's time is spent on it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fl_client.checks.check import size, span
from fl_client.config import ConfigError
from fl_server import config
from fl_server.simulation import advice, rehearsal, seats
from fl_server.simulation.options import Json, Set, plain_errors

SHOWN = 16  # rounds; of more the middle is left out
NAMED = 4  # late silos of a round
HONEST = (
    "Bytes and seconds of work are those that `fl-server plan` predicts; rounds, deadlines and quorum are the hub's "
    "own. A cut delays, and costs the training since the last checkpoint. Lines and machines are as the profiles say."
)
app = typer.Typer()


@app.command()
def rehearse(
    study_file: Annotated[Path, typer.Argument(help="A study file.")],
    profiles: Annotated[
        str,
        typer.Option(help="A profiles file, or names of bundled profiles with commas between."),
    ],
    silos: Annotated[
        int | None, typer.Option(help="So many silos, dealt the profiles in turn.")
    ] = None,
    start: Annotated[
        str, typer.Option(help="When the study begins, in local time: 2026-11-30T08:00.")
    ] = "",
    set_: Set = None,
    as_json: Json = False,
) -> None:
    """Play a study in virtual time: round times, who is late, bytes and hours of each silo, when it is done.

    Exit code 1 where it would stop before its last round.
    """
    console = Console(stderr=as_json, highlight=False)
    with plain_errors(console):
        study, here = config.read(study_file, set_ or []), seats.read(profiles, silos)
        begins = _start(start)
        found = rehearsal.rehearse(study, here, begins)
        found["advice"] = advice.advice(study, here, begins, found)
    if as_json:
        print(json.dumps(found, ensure_ascii=False))  # noqa: T201
    else:
        show(found, study.rounds, console)
    raise typer.Exit(1 if found["stopped"] else 0)


def _start(text: str) -> datetime:
    """Return a local time; without one, eight in the morning of the next Monday."""
    if not text:
        today = datetime.now().replace(hour=8, minute=0, second=0, microsecond=0)
        return today + timedelta(days=7 - today.weekday())
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"--start {text!r} is no time; write it as 2026-11-30T08:00, or leave it out"
        ) from None
    if given.tzinfo:  # a silo's hours are those of its own clock, and so is the start
        raise ConfigError(
            f"--start {text!r} names a time zone; write the local time without one, as 2026-11-30T08:00"
        )
    return given


def show(found: dict[str, Any], rounds: int, console: Console) -> None:
    """Print a rehearsal for people."""
    console.print(_rounds(found["rounds"]))
    console.print(_silos(found["silos"]))
    done = sum(row["committed"] for row in found["rounds"])
    ahead = f"{span(found['before_s'])} before round 1"
    if found["stopped"]:
        console.print(
            f"the study stops at {_when(found['finish'])} after {done} of {rounds} rounds:"
        )
        console.print(found["stopped"], style="red", markup=False, soft_wrap=True)
    else:
        console.print(
            f"{rounds} rounds from {_when(found['start'])} are done at {_when(found['finish'])}: "
            f"{_long(found['seconds'])}, of which {ahead}"
        )
    for line in found["advice"]:
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    console.print(HONEST, style="dim")


def _rounds(rows: list[dict[str, Any]]) -> Table:
    table = Table("round", "takes", "ends", "heard", "late (answered after)")
    left_out = len(rows) - SHOWN
    for place, row in enumerate(rows):
        if left_out > 0 and SHOWN // 2 <= place < len(rows) - SHOWN // 2:
            if place == SHOWN // 2:
                table.add_row("...", f"{left_out} more", "", "", "")
            continue
        number = str(row["round"]) + ("" if row["committed"] else " failed")
        heard = f"{row['asked'] - len(row['late'])} of {row['asked']}"
        table.add_row(number, span(row["seconds"]), _when(row["ended"]), heard, _late(row["late"]))
    return table


def _late(late: dict[str, float | None]) -> str:
    said = [f"{n} ({span(s) if s is not None else 'never'})" for n, s in late.items()]
    more = [f"and {len(said) - NAMED} more"] if len(said) > NAMED else []
    return ", ".join(said[:NAMED] + more)


def _silos(silos: dict[str, dict[str, Any]]) -> Table:
    table = Table("silo")
    for heading in ("late", "down", "up", "works", "line", "held up"):
        table.add_column(heading, justify="right")
    for name, own in silos.items():
        known = name if name.startswith(own["profile"]) else f"{name} ({own['profile']})"
        table.add_row(
            known, f"{own['late']} of {own['asked']}", size(own["down"]), size(own["up"]),
            *(span(own[key]) if own[key] else "-" for key in ("work_s", "line_s", "waits_s")),
        )  # fmt: skip
    table.caption = "works: trains and scores; held up: cuts, closed hours, work done again"
    return table


def _when(moment: str) -> str:
    return f"{datetime.fromisoformat(moment):%a %d %b %H:%M}"


def _long(seconds: float) -> str:
    """Return days and hours."""
    days, hours = divmod(round(seconds / 3600), 24)
    if not days:
        return span(seconds)
    said = f"{days} day{'s' * (days > 1)}"
    return f"{said} {hours} h" if hours else said
