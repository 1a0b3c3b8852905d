"""``fl-sim``: many silos on one machine, for a researcher."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType

from fl_server.simulation import bench, choices, harness, parts, rehearse, screen
from fl_server.simulation.options import (
    Base,
    Cohort,
    Data,
    Dtype,
    Engine,
    Json,
    Languages,
    Out,
    Processes,
    Rounds,
    Set,
    Silos,
    StudyFile,
    Threads,
    Verbose,
    crews_of,
    plain_errors,
    processes_of,
    resumable,
    study_of,
    unchanged,
)

app = typer.Typer(
    help="Simulate a federation of silos on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(harness.app)
app.add_typer(bench.app)
app.add_typer(rehearse.app)
app.add_typer(parts.app)


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
    engine: Engine = "local",
    processes: Processes = 0,
    threads: Threads = None,
    cohort: Cohort = 0,
    dtype: Dtype = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a study: every silo trains, the hub merges, and a report shows who gained."""
    from fl_server.simulation import study as studies

    console = Console(stderr=as_json)
    with plain_errors(console):
        given = (study_file, set_, silos, rounds, data, languages, base, threads, dtype)
        if resume:
            study, folder = studies.recorded(resume), resume.absolute()
            unchanged(resume, *given, out)
        else:
            study = study_of(*given)
            folder = studies.folder_for(study, out)
        going, count = resume is not None, processes_of(processes, study, engine)
        crews = crews_of(engine, study)
        with resumable(folder, console):
            report = studies.run(
                study, folder, console, going, verbose, processes=count, cohort=cohort, crews=crews
            )
        where = f"adapters: {folder}/adapter   report: {folder}/report.html"
        _show(report, screen.tables, where, console, as_json)


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
    engine: Engine = "local",
    processes: Processes = 0,
    threads: Threads = None,
    cohort: Cohort = 0,
    dtype: Dtype = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run several strategies on the same silos, beside every silo alone and all text pooled."""
    from fl_server.simulation import compare as comparing
    from fl_server.simulation import study as studies

    console = Console(stderr=as_json)
    with plain_errors(console):
        study = study_of(study_file, set_, silos, rounds, data, languages, base, threads, dtype)
        folder, crews = studies.folder_for(study, out), crews_of(engine, study)
        with resumable(folder, console, "--out"):
            how = verbose, processes_of(processes, study, engine), cohort, crews
            made = comparing.compare(study, strategies, folder, console, *how)
        _show(made, screen.compared, f"report: {folder}/compare.html", console, as_json)


@app.command()
def sweep(
    strategies: Annotated[
        list[str], typer.Option(help="A strategy; give the option once for each.")
    ],
    study_file: StudyFile = None,
    rates: Annotated[str, typer.Option(help="Three learning rates or more, commas between.")] = "",
    seeds: Annotated[str, typer.Option(help="Seeds, commas between; by default three.")] = "",
    first: Annotated[
        bool, typer.Option("--tune-once", help="Choose each method's rate with the first seed.")
    ] = False,
    set_: Set = None,
    silos: Silos = None,
    rounds: Rounds = None,
    data: Data = None,
    languages: Languages = None,
    base: Base = None,
    out: Out = None,
    engine: Engine = "local",
    processes: Processes = 0,
    threads: Threads = None,
    cohort: Cohort = 0,
    dtype: Dtype = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run strategies at several rates and seeds; each at its best rate beside alone and centralised, with intervals."""
    from fl_server.simulation import study as studies
    from fl_server.simulation import sweep as sweeping

    console = Console(stderr=as_json)
    with plain_errors(console):
        study = study_of(study_file, set_, silos, rounds, data, languages, base, threads, dtype)
        folder, crews = studies.folder_for(study, out), crews_of(engine, study)
        swept = choices.choices(study, strategies, rates, seeds, first)
        with resumable(folder, console, "--out"):
            how = verbose, processes_of(processes, study, engine), cohort, crews
            made = sweeping.sweep(study, swept, folder, console, *how)
        _show(made, screen.swept, f"report: {folder}/sweep.html", console, as_json)


def _show(
    made: dict[str, Any],
    tables: Callable[[dict[str, Any]], RenderableType],
    where: str,
    console: Console,
    as_json: bool,
) -> None:
    """Print what was made as JSON, or its tables and where the rest of it lies."""
    if as_json:
        print(json.dumps(made, ensure_ascii=False))  # noqa: T201
        return
    console.print(tables(made))
    console.print(where, soft_wrap=True, markup=False)
