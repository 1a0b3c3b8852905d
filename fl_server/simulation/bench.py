"""``fl-sim bench``: the figures of speed, each with its peer run beside it. They come with the repository."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl_client.config import ConfigError
from fl_server.simulation.options import plain_errors

ROOT = Path(__file__).parents[2]
FIGURES = ("hub", "codecs", "ray", "ideal", "peak", "thousand", "nvflare", "large")
Asked = Annotated[
    list[str] | None, typer.Argument(help=f"Which of {', '.join(FIGURES)}; without any, all.")
]
Dry = Annotated[bool, typer.Option("--dry", help="Print figures and keep none.")]

app = typer.Typer()


@app.command()
def bench(asked: Asked = None, dry: Dry = False) -> None:
    """Measure speed and memory beside peers that are really run; minutes for each."""
    with plain_errors(Console()):
        strange = sorted(set(asked or ()) - set(FIGURES))
        if strange:
            raise ConfigError(f"{strange[0]!r} is no figure; choose of {', '.join(FIGURES)}")
        if not (ROOT / "benchmarks" / "speed").is_dir():
            raise ConfigError(
                "the benchmarks are not part of an installed package; clone the repository"
            )
    for figure in asked or FIGURES:
        command = [sys.executable, "-m", "benchmarks.speed", figure, *["--dry"] * dry]
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        if code:
            raise typer.Exit(code)
