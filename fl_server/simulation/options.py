"""What the commands of ``fl-sim`` share: their options, the study they make, errors in plain words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fl_client import plain
from fl_client.config import ConfigError, Study
from fl_server import config
from fl_server.run import RoundFailed
from fl_server.simulation.pool import Crews, Died, cores, gpu, several

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
    int,
    typer.Option(
        min=0,
        help="Processes that train silos side by side; 0 for one a core, or fewer of more threads, or one on a GPU.",
    ),
]
Cohort = Annotated[
    int,
    typer.Option(
        min=0, help="Silos that train at once in a process; 1 for one at a time, 0 to choose."
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Threads of each process, train.threads; usually one.")
]
Dtype = Annotated[
    str | None, typer.Option(help="Numbers to train with, train.dtype: auto, float32 or bfloat16.")
]
Engine = Annotated[
    str, typer.Option(help="Where silos work: local, or ray, on RAY_ADDRESS or on this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show what hub and silos log.")]

# what makes a study and its folder, as it is given to ``run``
CHANGES = (
    "the study file",
    "--set",
    "--silos",
    "--rounds",
    "--data",
    "--languages",
    "--base",
    "--threads",
    "--dtype",
    "--out",
)


def study_of(
    path: Path | None,
    overrides: list[str] | None,
    silos: int | None,
    rounds: int | None,
    data: str | None,
    languages: str | None,
    base: str | None,
    threads: int | None = None,
    dtype: str | None = None,
) -> Study:
    """Return the study of a file, or the built-in one, with the changes that options ask for."""
    given = {
        "simulation.silos": silos,
        "rounds": rounds,
        "simulation.data": data if data in (None, "", "cldr") else os.path.abspath(data),  # noqa: PTH100
        "simulation.languages": languages,
        "model.base": base,
        "train.threads": threads,
        "train.dtype": dtype,
    }
    options = [f"{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    return config.read(path, [*(overrides or []), *options])


def unchanged(resume: Path, *given: Any) -> None:
    """Raise ``ConfigError`` where what is ``given`` beside --resume would change the study or folder."""
    told = [name for name, value in zip(CHANGES, given, strict=True) if value not in (None, [])]
    if told:
        raise ConfigError(
            f"--resume {resume} goes on with the study and folder that it began with; leave out {', '.join(told)}"
        )


def processes_of(asked: int, study: Study, engine: str = "local") -> int:
    """Return how many processes work for silos: as many as asked for, or what fills the cores with their threads.

    Without Ray, which gives each a GPU of its own, one has the GPU to itself: it trains as many silos at once.
    """
    if not asked and engine == "local" and gpu():
        return 1
    return asked or max(1, cores() // (study.train.threads or cores()))


def crews_of(engine: str, study: Study) -> Crews:
    """Return what makes the processes of an engine; raises ``ConfigError``."""
    if engine == "local":
        return several
    if engine == "ray":
        from fl_server.simulation import actors

        return partial(actors.several, threads=study.train.threads)
    raise ConfigError(f"--engine {engine!r} is not known; choose local or ray")


@contextmanager
def plain_errors(console: Console) -> Iterator[None]:
    """Turn what a user can mend into one sentence on standard error: exit code 2, or 1 for a study that broke off."""
    error_console = console if console.stderr else Console(stderr=True)
    try:
        yield
    except ConfigError as error:
        error_console.print(
            f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(2) from None
    except OSError as error:
        said = escape(plain.sentence(error))
        error_console.print(f"[red]error:[/red] {said}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except RoundFailed as error:
        error_console.print(
            f"[red]stopped:[/red] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise typer.Exit(1) from None


@contextmanager
def resumable(folder: Path, console: Console, option: str = "--resume") -> Iterator[None]:
    """On Ctrl-C, or where a process died, say how to go on; what was committed is kept."""
    try:
        yield
    except KeyboardInterrupt:
        said = f"stopped; committed rounds are kept. Continue with {option} {folder}"
        console.print(said, soft_wrap=True, markup=False)
        raise typer.Exit(130) from None
    except Died as error:
        then = "and give fewer --processes if memory was short, as --processes 1"
        raise Died(error.why, f"Continue with {option} {folder}, {then}") from None
