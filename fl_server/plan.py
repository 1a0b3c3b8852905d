"""``fl-server plan``: what a study will cost, before anyone's time is spent on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fl_client.checks.check import size, span
from fl_client.plain import errors
from fl_server import config, outlook
from fl_server.outlook import Outlook, Row
from fl_server.paces import CPU_SPEED
from strategies import adapter as algebra

app = typer.Typer()
HONEST = (
    "Bytes are those of whole arrays, of which a report counts what crosses a line: shapes are known from {source}, "
    "and the codec has encoded a vector of that size. Memory is an estimate, right within a factor of one and a half. "
    "Times marked * rest on what the silo measured in its last round on this base; others assume a middling GPU, or "
    "{cpu:.0f} billion operations a second and core, and may be off several times over."
)


@app.command()
def plan(
    study_file: Annotated[Path, typer.Argument(help="A study file.")],
    hub: Annotated[
        Path, typer.Option("--hub", envvar="BHASHA_HUB", help="The hub's folder.")
    ] = Path("hub"),
    silos: Annotated[
        str, typer.Option(help="Which silos, commas between; all on the roster if left out.")
    ] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key, as key=value.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Predict bytes, memory and time of a study for the silos on the roster. Exit code 1 where it does not fit."""
    with errors():
        found = outlook.read(hub, config.read(study_file, set_ or []), silos)
    said = plain(found)
    if as_json:
        print(json.dumps(said))  # noqa: T201
    else:
        show(found, said, Console(highlight=False, markup=False, emoji=False))
    raise typer.Exit(1 if said["fits"] is False else 0)


def plain(found: Outlook) -> dict[str, Any]:
    """Return a plan as plain data; seconds, bytes, whether it fits: null where a silo has not said what it has."""
    rows = [_row(row, found.study.rounds) for row in found.rows]
    slowest = [row["round_s"] for row in rows if row["round_s"] is not None]
    once = [max((row[key] or 0.0 for row in rows), default=0.0) for key in ("alone_s", "adapt_s")]
    each = max(slowest, default=None)
    return {
        "study": found.study.name,
        "rounds": found.study.rounds,
        "fits": _fits(rows),
        "adapter": {
            "numbers": algebra.size(found.tensors),
            "token_rows": sum(s[0] for n, s in found.tensors.items() if algebra.part(n) == "rows"),
            "from": found.shape.source,
        },
        "bytes": {
            "round": found.round._asdict(),
            "study": found.total._asdict(),
            "once": found.once._asdict(),
        },
        "round_s": each,
        "study_s": None if each is None else round(each * found.study.rounds + sum(once), 1),
        "silos": rows,
    }


def _fits(rows: list[dict[str, Any]]) -> bool | None:
    """Return whether a study fits its silos; None where none is known not to, and some have not said what they have."""
    if any(row["problem"] for row in rows):
        return False
    return None if any(row["has_bytes"] is None or row["round_s"] is None for row in rows) else True


def _row(row: Row, rounds: int) -> dict[str, Any]:
    pace, room = row.pace, row.silo.room
    return {
        "name": row.silo.name,
        "state": row.silo.state,
        "languages": list(row.silo.languages),
        "gpus": row.silo.power.gpus,
        "cpus": row.silo.power.cpus,
        "uplink_bytes_s": row.silo.power.uplink_bytes_s or None,
        "round_bytes": row.silo.line.round_bytes or None,
        "update_hours": row.silo.line.update_hours or None,
        "measured": bool(row.silo.power.tokens_s),
        "needs_bytes": row.need.total if row.need else None,
        "has_bytes": room.bytes if room else None,
        "processes": room.processes if room else None,
        "train_s": round(pace.train_s, 1) if pace else None,
        "line_s": round(pace.line_s, 1) if pace else None,
        "round_s": round(pace.round_s, 1) if pace else None,
        "alone_s": round(pace.alone_s, 1) if pace else None,
        "adapt_s": round(pace.adapt_s, 1) if pace else None,
        "problem": row.problem,
        "remedy": row.remedy,
    }


def show(found: Outlook, said: dict[str, Any], console: Console) -> None:
    """Print a plan for people."""
    numbers, rows = said["adapter"]["numbers"], said["adapter"]["token_rows"]
    moved = {key: {way: size(n) for way, n in trip.items()} for key, trip in said["bytes"].items()}
    console.print(
        f"{said['study']}: {said['rounds']} rounds, {len(said['silos'])} silos, an adapter of {numbers:,} numbers "
        f"with {rows:,} token rows"
    )
    each, whole, once = moved["round"], moved["study"], moved["once"]
    console.print(f"each round, each silo: {each['down']} down, {each['up']} up")
    console.print(f"the whole study: {whole['down']} down, {whole['up']} up")
    console.print(
        f"once: {once['up']} up from one silo at the start, {once['down']} down to each at the end"
    )
    table = Table(
        "silo", "languages", "trains on", "memory", "uplink", "a round", "alone", "adapting"
    )
    for row in said["silos"]:
        table.add_row(*_cells(row))
    console.print(table)
    if said["round_s"] is not None:
        console.print(
            f"a round takes about {span(said['round_s'])}, the study {span(said['study_s'])} at most"
        )
    for row in said["silos"]:
        if row["problem"]:
            console.print(f"{row['name']}: {row['problem']}; {row['remedy']}", style="red")
        elif row["round_s"] is None:
            console.print(
                f"{row['name']} has not said what it has; `fl-client doctor` there tells the hub"
            )
    console.print(HONEST.format(source=found.shape.source, cpu=CPU_SPEED / 1e9), style="dim")


def _cells(row: dict[str, Any]) -> list[str]:
    unknown = row["has_bytes"] is None
    on = f"{row['gpus']} GPUs" if row["gpus"] else f"{row['cpus']} cores"
    memory = "" if unknown else f"{size(row['needs_bytes'])} of {size(row['has_bytes'])}"
    uplink = f"{size(row['uplink_bytes_s'])}/s" if row["uplink_bytes_s"] else ""
    uplink += f" {size(row['round_bytes'])} a round" if row["round_bytes"] else ""
    uplink += f" {row['update_hours']}" if row["update_hours"] else ""
    known = row["round_s"] is not None
    return [
        row["name"] + ("" if row["state"] == "approved" else f" ({row['state']})"),
        ", ".join(row["languages"]),
        on if known else "",
        memory,
        uplink,
        span(row["round_s"]) + ("*" if row["measured"] else "") if known else "",
        *(span(row[key]) if known else "" for key in ("alone_s", "adapt_s")),
    ]
