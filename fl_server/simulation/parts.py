"""``fl-sim list``: the parts that a study can name."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_client import spec
from fl_server.simulation.options import Json

app = typer.Typer()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List what a study can name: strategies, weights, outer optimizers, guards, codecs, schedules, tasks, ..."""
    found = {
        kind: {name: _told(factory) for name, factory in spec.factories(kind).items()}
        for kind in spec.FOLDERS
    }
    if as_json:
        print(json.dumps(found))  # noqa: T201
        return
    table = Table("kind", "how a study names it", "what it does")
    for kind, known in found.items():
        for name, told in known.items():
            given = ", ".join(f"{key}={value!r}" for key, value in told["arguments"].items())
            table.add_row(kind, Text(f"{name}({given})"), told["does"])
        table.add_section()
    Console().print(table)


def _told(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return what a part does and its arguments, each with what it is where a study leaves it out."""
    given = inspect.signature(factory).parameters
    arguments = {name: argument.default for name, argument in given.items()}
    return {"does": (factory.__doc__ or "").splitlines()[0], "arguments": arguments}
