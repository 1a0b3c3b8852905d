"""``fl-sim``: many silos on one machine, for a researcher."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fl_client import spec
from fl_client.config import ConfigError, Study
from fl_server import config
from fl_server.rounds import RoundFailed
from fl_server.simulation import harness, screen

app = typer.Typer(
    help="Simulate a federation of silos on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(harness.app)

StudyFile = Annotated[
    Path | None, typer.Argument(help="A study file; without one, the built-in study.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change one key, as key=value; repeat for more.")
]
Silos = Annotated[int | None, typer.Option(help="Number of silos.")]
Rounds = Annotated[int | None, typer.Option(help="Number of rounds.")]
Data = Annotated[str | None, typer.Option(help="A folder of text, or 'cldr', the built-in corpus.")]
Languages = Annotated[str | None, typer.Option(help="Language codes with commas between.")]
Base = Annotated[
    str | None, typer.Option(help="A base model: builtin:tiny, a folder, a GGUF file, a hub name.")
]
Out = Annotated[Path | None, typer.Option(help="Run folder; by default one under runs/.")]
Processes = Annotated[
    int, typer.Option(min=0, help="Processes that train silos side by side; 0 for one a core.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what hub and silos log.")]


@app.command()
def run(
    study_file: StudyFile = None,
    set_: Set = None,
    silos: Silos = None,
    rounds: Rounds = None,
    data: Data = None,
    languages: Languages = None,
    base: Base = None,
    out: Out = None,
    resume: Annotated[Path | None, typer.Option(help="Continue the run in this folder.")] = None,
    processes: Processes = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a study: every silo trains, the hub merges, and a report shows who gained."""
    from fl_server.simulation import study as studies

    console = Console(stderr=as_json)
    with plain_errors(console):
        if resume:
            study, folder = studies.recorded(resume), resume.absolute()
        else:
            study = _study(study_file, set_, silos, rounds, data, languages, base)
            folder = studies.folder_for(study, out)
        with resumable(folder, console):
            report = studies.run(
                study, folder, console, resume is not None, verbose, processes=processes or cores()
            )
        if as_json:
            print(json.dumps(report, ensure_ascii=False))  # noqa: T201
            return
        for table in screen.tables(report):
            console.print(table)
        console.print(f"adapters: {folder}/adapter   report: {folder}/report.html", soft_wrap=True)


@app.command()
def compare(
    strategies: Annotated[
        list[str], typer.Option(help="A strategy; give the option once for each.")
    ],
    study_file: StudyFile = None,
    set_: Set = None,
    silos: Silos = None,
    rounds: Rounds = None,
    data: Data = None,
    languages: Languages = None,
    base: Base = None,
    out: Out = None,
    processes: Processes = 0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run several strategies on the same silos, beside every silo alone and all text pooled."""
    from fl_server.simulation import compare as comparing
    from fl_server.simulation import study as studies

    console = Console(stderr=as_json)
    with plain_errors(console):
        study = _study(study_file, set_, silos, rounds, data, languages, base)
        folder = studies.folder_for(study, out)
        with resumable(folder, console, "--out"):
            made = comparing.compare(
                study, strategies, folder, console, verbose, processes or cores()
            )
        if as_json:
            print(json.dumps(made, ensure_ascii=False))  # noqa: T201
            return
        console.print(screen.compared(made))
        console.print(f"report: {folder}/compare.html", soft_wrap=True)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List what a study can name: strategies, weights, outer optimizers, codecs, schedules, tasks, partitions."""
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


def _study(
    path: Path | None,
    overrides: list[str] | None,
    silos: int | None,
    rounds: int | None,
    data: str | None,
    languages: str | None,
    base: str | None,
) -> Study:
    given = {
        "simulation.silos": silos,
        "rounds": rounds,
        "simulation.data": data if data in (None, "cldr") else os.path.abspath(data),  # noqa: PTH100
        "simulation.languages": languages,
        "model.base": base,
    }
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return config.read(path, [*(overrides or []), *options])


def cores() -> int:
    """Return the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def plain_errors(console: Console) -> Iterator[None]:
    """Turn what a user can mend into one sentence on standard error: exit code 2, or 1 for a study that broke off."""
    error_console = console if console.stderr else Console(stderr=True)
    try:
        yield
    except ConfigError as error:
        error_console.print(f"[red]error:[/red] {_escaped(error)}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except RoundFailed as error:
        error_console.print(
            f"[red]stopped:[/red] {_escaped(error)}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from None


@contextmanager
def resumable(folder: Path, console: Console, option: str = "--resume") -> Iterator[None]:
    """On Ctrl-C say how to go on; what was committed is kept."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            f"stopped; committed rounds are kept. Continue with {option} {folder}", soft_wrap=True
        )
        raise typer.Exit(130) from None


def _escaped(error: Exception) -> str:
    return str(error).replace("[", "\\[")
