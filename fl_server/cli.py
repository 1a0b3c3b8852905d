"""``fl-server``: for the coordinator of a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fl_client import plain
from fl_client.config import flat
from fl_server import config, control, plan, provision, renewal, start

app = typer.Typer(
    help="Coordinate a federation from the hub.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for part in (provision, start, control, plan, renewal):
    app.add_typer(part.app)


@app.callback()
def main() -> None:
    """Coordinate a federation from the hub."""


@app.command()
def check(
    study_file: Annotated[Path | None, typer.Argument(help="A study file.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one key, as key=value.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the study as JSON.")] = False,
) -> None:
    """Read a study, build its parts and say whether they fit together; needs no Torch and trains nothing."""
    with plain.errors():
        study = config.read(study_file, set_ or [])
        config.build(study)
    if as_json:
        print(json.dumps(flat(study)))  # noqa: T201
        return
    table = Table("key", "value", title=f"{study.name}: its parts fit together")
    for key, value in flat(study).items():
        table.add_row(key, str(value))
    Console(markup=False, emoji=False).print(table)
