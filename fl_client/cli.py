"""``fl-client``: for a university or clinic that joins as a silo."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fl_client import doctor, enrol, harness, plain, release, start

app = typer.Typer(
    help="Take part in a federation as a silo.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for part in (enrol, doctor, start, release, harness):
    app.add_typer(part.app)


@app.callback()
def main() -> None:
    """Take part in a federation as a silo."""


@app.command()
def text(
    data: Annotated[str, typer.Argument(help="A folder of text, or 'cldr', the built-in corpus.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Count what a folder of text holds, by language: rows, characters, bytes. Nothing leaves this machine."""
    counts: dict[str, dict[str, int]] = {}
    with plain.errors():
        from fl_client import corpus

        for row in corpus.read(data):
            held = counts.setdefault(row["lang"], {"rows": 0, "characters": 0, "bytes": 0})
            held["rows"] += 1
            written = corpus.words(row)
            held["characters"] += len(written)
            held["bytes"] += len(written.encode())
        others = corpus.others(data)
    if others:
        typer.echo(f"{others:,} files of other kinds are not read", err=True)
    if as_json:
        print(json.dumps(counts))  # noqa: T201
        return
    table = Table("language", "rows", "characters", "bytes")
    for lang, held in sorted(counts.items()):
        table.add_row(lang, *(f"{held[name]:,}" for name in ("rows", "characters", "bytes")))
    Console().print(table)
