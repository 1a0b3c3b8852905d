"""The hub's side of Flower: a thin seam that starts without Torch."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_client import config as studies
from fl_server import config, record, release, rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study in the run configuration, from the newest committed round of its folder."""
    study = studies.from_flat(context.run_config)
    parts, schedule = config.build(study)
    folder = Path(study.home or f"runs/{study.name}").absolute()
    if not (folder / "provenance.json").exists():
        record.claim(folder, study, resume=False)
    joined = rounds.join(grid, study, parts, schedule, folder)
    release.release(joined, rounds.run(joined))
