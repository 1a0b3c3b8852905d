"""What is known of a hub, its silos and its studies at this moment, as plain data."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from fl_client import children
from fl_client.config import ConfigError
from fl_server import hub as hubs
from fl_server import progress, queue, record, roster
from fl_server.gateway import seen
from fl_server.gateway.client import Away, Gateway
from fl_server.queue import Ticket


def of(hub: Path) -> dict[str, Any]:
    """Return what is known of a hub, its silos and its studies, as plain data."""
    settings = hubs.read(hub)
    known = _met(hub)
    silos = [
        {"name": name, "state": entry.state, "languages": list(entry.languages)}
        | known.get(name, {})
        for name, entry in sorted(roster.read(hub).items())
    ]
    studies = [_study_row(hub, ticket) for ticket in queue.tickets(hub)]
    reached = _efficiency(studies, {row["name"] for row in silos})
    for row in silos:
        row["efficiency"] = reached.get(row["name"], {})
    about = {"name": settings.name, "address": settings.address, "pid": children.running(hub)}
    return {"hub": about, "silos": silos, "studies": studies}


def _met(hub: Path) -> dict[str, dict[str, Any]]:
    """Return what the gateway knows of each silo; where it does not run, what it left on disk."""
    try:
        return Gateway(hub).status()
    except Away:
        left = seen.load(hub / "seen").silos
        return {name: seen.row(silo) | {"connected": False} for name, silo in left.items()}


def _study_row(hub: Path, ticket: Ticket) -> dict[str, Any]:
    """Return where a study stands; one that cannot be read has no rounds, and the reason stands in ``error``."""
    now = progress.read(queue.folder(hub, ticket.name))
    try:
        rounds, problem = queue.study_of(hub, ticket.name).rounds, ""
    except ConfigError as error:
        rounds, problem = 0, str(error)
    live = ticket.state == "running"
    return {
        "name": ticket.name,
        "state": ticket.state,
        "round": now.get("round", 0),
        "rounds": rounds,
        "answered": now.get("answered", []) if live else [],
        "waiting": now.get("waiting", []) if live else [],
        "error": ticket.error or problem,
        "folder": str(hub / "runs" / ticket.name),
    }


def _efficiency(studies: list[dict[str, Any]], silos: set[str]) -> dict[str, dict[str, float]]:
    """Return each silo's compute over compute and communication by rank, as of the last round that it worked in."""
    found: dict[str, dict[str, float]] = {}
    for study in reversed(studies):
        if silos <= found.keys():
            break  # older studies tell nothing new
        newest: dict[str, dict[str, float]] = {}
        with suppress(ConfigError):  # a record that cannot be read tells nothing
            for line in record.lines(Path(study["folder"])):
                ranks = {name: note.get("ranks") for name, note in line["silos"].items()}
                newest |= {name: own.get("efficiency", {}) for name, own in ranks.items() if own}
        found = newest | found
    return found
