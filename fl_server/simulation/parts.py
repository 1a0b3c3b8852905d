"""``fl-sim list``: the parts that a study can name."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.table import Table

from fl_client import spec
from fl_server.simulation.options import Json

app = typer.Typer()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List what a study can name: strategies, weights, outer optimizers, guards, codecs, schedules, tasks, ..."""
    found = {
        kind: {
            name: (factory.__doc__ or "").splitlines()[0]
            for name, factory in spec.factories(kind).items()
        }
        for kind in spec.FOLDERS
    }
    if as_json:
        print(json.dumps(found))  # noqa: T201
        return
    table = Table("kind", "name", "what it does")
    for kind, known in found.items():
        for name, line in known.items():
            table.add_row(kind, name, line)
        table.add_section()
    Console().print(table)
