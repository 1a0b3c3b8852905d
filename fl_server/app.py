"""The hub's side of Flower: a thin seam that starts without Torch."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_client import config as studies
from fl_client.config import Study
from fl_server import claims, config, federation, queue, record, release, rounds
from fl_server import hub as hubs
from fl_server import run as runs
from fl_server.grid import Grid as Way
from fl_server.grid import Polled

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study in the run configuration, from the newest committed round of its folder."""
    study = studies.from_flat(context.run_config)
    if hubs.WITHIN not in os.environ:
        _run(Polled(grid), study, Path(study.home or f"runs/{study.name}").absolute())
        return
    hub = Path(os.environ[hubs.WITHIN])
    with claims.claimed(hub, study.name, str(context.run_id)):
        ticket, (_, schedule) = queue.one(hub, study.name), config.build(study)
        way = federation.join(grid, hub, context.run_id, ticket, schedule.late)
        _run(way, study, hub / "runs" / study.name)


def _run(grid: Way, study: Study, folder: Path) -> None:
    parts, schedule = config.build(study)
    record.claim(folder, study, resume=(folder / "provenance.json").exists())
    joined = runs.join(grid, study, parts, schedule, folder)
    release.release(*rounds.run(joined))
