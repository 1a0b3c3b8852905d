"""Ranks that train a silo of the built-in study and write down what came of it; ``train`` starts them.

``python -m benchmarks.team FILE`` is one rank, with the environment that torch elastic gives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fl_client.group import LOOPBACK
from fl_client.ranks import HEAD, STORE

ROOT = Path(__file__).parent.parent


def train(
    count: int,
    steps: int,
    places: tuple[tuple[str, ...], ...] = (),
    link: str = LOOPBACK,
    model: dict[str, Any] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the losses, the speed and the seconds of ``count`` ranks that train so many steps.

    ``places`` are words put before each rank's command, such as ``ip netns exec NAME``; ``link`` is the network
    interface over which they talk; ``model`` and ``options`` are those tables of a study.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.json"
        job = Path(folder) / "job.json"
        asked = {"steps": steps, "model": model or {}, "options": options, "told": str(told)}
        job.write_text(json.dumps(asked))
        environment = os.environ | {"WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1", HEAD: "1"}
        environment |= {STORE: f"{folder}/store", "GLOO_SOCKET_IFNAME": link}
        running = []
        for rank in range(count):
            before = places[rank] if places else ()
            command = [*before, sys.executable, "-m", "benchmarks.team", str(job)]
            own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            log = (Path(folder) / f"{rank}.log").open("wb")
            with log:
                running.append(subprocess.Popen(command, cwd=ROOT, env=own, stderr=log))
        if any([process.wait() for process in running]):
            said = (Path(folder) / "0.log").read_text(errors="replace")[-2000:]
            raise SystemExit(f"a rank of {count} failed with {options}:\n{said}")
        found: dict[str, Any] = json.loads(told.read_text())
    return found


def main(path: Path) -> None:
    """Be one rank: two steps to warm up, then those that count."""
    import torch

    from fl_client import model, optimizer, ranks, site, train
    from fl_client.config import Model, Study, Train
    from strategies import scope
    from tasks import encode

    job = json.loads(path.read_text())
    torch.set_num_threads(1)
    ranks.join()
    own = site.simulated(Study())[0]
    options = Train(**job["options"])
    scripts = scope.scripts(e.lang for e in own.train)
    made = model.warm(Model(**job["model"]), 0, scripts, 7, options.parallel)
    blocks = encode.pack(own.train, made.tokenize, made.end, options.length)
    for steps in (2, job["steps"]):
        model.write(made, {})
        plan = train.Plan(0, steps, steps, options.lr, "7:silo")
        fitted = train.fit(made, blocks, options, plan, optimizer.start(made, {}))
    if ranks.first():
        told = {"losses": fitted.losses, "speed": fitted.speed}
        Path(job["told"]).write_text(json.dumps(told))
    ranks.part()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
