"""``fl-sim harness``: the test text of all simulated silos as tasks of lm-evaluation-harness."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl_client.harness import Out, write
from fl_client.plain import errors

app = typer.Typer()


@app.command()
def harness(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    out: Out,
) -> None:
    """Write the test text that a run's report was scored on as tasks of lm-evaluation-harness."""
    with errors():
        from fl_client import chat, site
        from fl_server.simulation import study as studies

        study = studies.recorded(run)
        owns = [chat.framed(site.Own(own, run, study)) for own in site.simulated(study)]
        written = write(out, study, [own.site for own in owns])
    typer.echo(f"{', '.join(written)} in {out}: see its README.md")
