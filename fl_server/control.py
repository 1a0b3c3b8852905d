"""The coordinator's everyday commands: run a study, see its status and log, stop and resume it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fl_client import children
from fl_client.config import ConfigError
from fl_client.plain import errors
from fl_server import config, queue, roster, standing
from fl_server import hub as hubs

app = typer.Typer()
Hub = Annotated[Path, typer.Option("--hub", envvar="BHASHA_HUB", help="The hub's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Name = Annotated[str, typer.Argument(help="The study's name.")]
LOOK_S = 1.0  # between two looks at a log


@app.command()
def run(
    study_file: Annotated[Path, typer.Argument(help="A study file.")],
    hub: Hub = Path("hub"),
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key, as key=value.")
    ] = None,
    silos: Annotated[
        str, typer.Option(help="Which silos, commas between; all approved ones if left out.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Queue a study; it runs when those before it have ended."""
    with errors():
        hubs.read(hub)
        study = config.read(study_file, set_ or [])
        config.build(study)
        ticket = queue.add(hub, study, chosen(hub, silos))
        if as_json:
            print(ticket.model_dump_json())  # noqa: T201
            return
        Console().print(f"{ticket.name} is queued for {', '.join(ticket.silos)}", highlight=False)
        if not children.running(hub):
            Console().print("the hub does not run: start it with fl-server start", highlight=False)


def chosen(hub: Path, wanted: str) -> tuple[str, ...]:
    """Return the silos of a study, by name; raises ``ConfigError`` where one is not approved."""
    approved = {n for n, entry in roster.read(hub).items() if entry.state == "approved"}
    names = {name.strip() for name in wanted.split(",") if name.strip()} or approved
    unknown = sorted(names - approved)
    if unknown or not names:
        known = ", ".join(sorted(approved)) or "none; invite silos and approve them first"
        what = f"silo {unknown[0]} is not approved" if unknown else "no silo can take part"
        raise ConfigError(f"{what}; approved: {known}")
    return tuple(sorted(names))


@app.command()
def status(hub: Hub = Path("hub"), as_json: Json = False) -> None:
    """Show the silos (last contact, version, languages, uplink) and the studies (round, who answered, who is late)."""
    with errors():
        found = standing.of(hub)
    if as_json:
        print(json.dumps(found))  # noqa: T201
        return
    pid = found["hub"]["pid"]
    console = Console(markup=False, emoji=False)  # errors may hold words that a silo chose
    console.print(f"hub {found['hub']['name']}: {f'runs (pid {pid})' if pid else 'does not run'}")
    silos = Table("silo", "state", "last contact", "version", "languages", "uplink", "efficiency")
    for row in found["silos"]:
        silos.add_row(*_silo_row(row))
    studies = Table("study", "state", "round", "answered", "waiting for", "why")
    for row in found["studies"]:
        done = f"{row['round']} of {row['rounds']}"
        answered, waiting = ", ".join(row["answered"]), ", ".join(row["waiting"])
        studies.add_row(row["name"], row["state"], done, answered, waiting, row["error"])
    console.print(silos)
    console.print(studies)


def _silo_row(row: dict[str, Any]) -> list[str]:
    ago = row.get("last_contact_s_ago")
    uplink = row.get("uplink_bytes_s")
    spoken = row.get("languages", [])
    return [
        row["name"],
        row["state"],
        "never" if ago is None else f"{ago:.0f} s ago",
        str(row.get("version", "")),
        ", ".join(spoken),
        f"{uplink / 1e6:.1f} MB/s" if uplink else "",
        " ".join(f"{value:.2f}" for _, value in sorted(row.get("efficiency", {}).items())),
    ]


@app.command()
def log(
    name: Name,
    hub: Hub = Path("hub"),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows.")] = False,
) -> None:
    """Print the log of a study."""
    with errors():
        hubs.read(hub)
        ticket = queue.one(hub, name)
        path = queue.folder(hub, name) / "log.txt"
        at = 0
        while True:
            grown = _lines(path, at)
            at += len(grown)
            typer.echo(grown.decode("utf-8", "replace"), nl=False)
            if not follow or ticket.state in queue.ENDED:
                return
            time.sleep(LOOK_S)
            ticket = queue.one(hub, name)


def _lines(path: Path, at: int) -> bytes:
    """Return the whole lines of a file from a byte on; the last one may be half written."""
    if not path.exists():
        return b""
    with path.open("rb") as stream:
        stream.seek(at)
        return b"".join(stream.read().rpartition(b"\n")[:2])


@app.command()
def resume(name: Name, hub: Hub = Path("hub")) -> None:
    """Queue a study again that was stopped or failed; it goes on after its last committed round."""
    with errors():
        hubs.read(hub)
        before = queue.one(hub, name)
        if before.state not in {"stopped", "failed"}:
            raise ConfigError(f"{name} is {before.state}; only a stopped or failed study can go on")
        queue.move(hub, name, "queued", {"stopped", "failed"}, attempts=0, error="")
    Console().print(f"{name} is queued and goes on after its last committed round", highlight=False)


@app.command()
def stop(
    name: Annotated[str | None, typer.Argument(help="A study; left out, the hub itself.")] = None,
    hub: Hub = Path("hub"),
) -> None:
    """Stop a study after what is committed, or the whole hub. Nothing is lost; ``resume`` and ``start`` go on."""
    with errors():
        hubs.read(hub)
        if name is None:
            stopped = children.stop(hub)
            Console().print("the hub is stopped" if stopped else "the hub did not run")
            return
        if not name.strip():  # a variable of a script, say, that is not set
            raise ConfigError(
                f"{name!r} names no study; name one, or nothing to stop the hub itself"
            )
        ticket = queue.one(hub, name)
        if ticket.state in queue.ENDED:
            raise ConfigError(f"{name} is {ticket.state} already")
        queue.move(hub, name, "stopped", {"queued"})
        state = queue.move(hub, name, "stopping", {"running"}).state
    Console().print(f"{name} is {state}; its committed rounds are kept", highlight=False)
