"""The figures of the worker group: ranks against one, what they lose by talking, by dying, by a slow link.

``python -m benchmarks.worker_group NAME`` with one of: losses, efficiency, killed, link.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import broken
from benchmarks import link as links
from benchmarks.figures import Figure, asked, at_least, at_most, report, true, write
from benchmarks.team import ROOT, train

TOPIC = "worker-group"
DELAY_S = 0.02  # each way

app = typer.Typer()


@app.command()
def main(
    name: Annotated[str, typer.Argument(help="Which figures to measure.")],
    steps: Annotated[
        int, typer.Option(help="Steps of each training; 0: as many as fit the figure.")
    ] = 0,
) -> None:
    """Measure one group of figures and write it to benchmarks/results/worker-group.json."""
    groups = {"losses": losses, "efficiency": efficiency, "killed": killed, "link": link}
    if name not in groups:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(groups)}")
    found = groups[name](steps) if steps else groups[name]()
    write(TOPIC, found, f"python -m benchmarks.worker_group {name}", asked())


def losses(steps: int = 40) -> list[Figure]:
    """Train the same silo on one rank, on two, and on two that share the base, and compare every loss."""
    figures = []
    for dtype in ("float32", "bfloat16"):
        one = train(1, steps, dtype=dtype)["losses"]
        for way in ("ddp()", "fsdp()"):
            two = train(2, steps, dtype=dtype, parallel=way)["losses"]
            apart = 1e6 * float(np.abs(np.subtract(one, two)).max())
            label = f"2 ranks by {way} against 1 rank, {dtype}, {steps} steps: largest difference"
            unit = "millionths of a nat a token"
            if dtype == "float32":
                figures.append(at_most(label, apart, unit, 100))
            else:  # a rank rounds its gradients before they are added: another sum than that of one rank
                figures.append(report(label, apart, unit))
    return figures


def efficiency(steps: int = 60) -> list[Figure]:
    """Train on two ranks over loopback and take the worse of the two."""
    figures = []
    for blocks in (8, 32):
        found = train(2, steps, batch_size=blocks)["speed"]
        worst = min(found[f"efficiency/{rank}"] for rank in range(2))
        label = f"efficiency of 2 gloo ranks on loopback, {blocks} blocks a step"
        figures.append(at_least(label, worst, "", 0.9) if blocks == 8 else report(label, worst, ""))
        alone = train(1, steps, batch_size=blocks)["speed"]["tokens_s/0"]
        together = sum(found[f"tokens_s/{rank}"] for rank in range(2))
        label = f"tokens a second, {blocks} blocks a step: 2 ranks against 1"
        figures.append(report(label, together / alone, "times"))
    return figures


def killed(steps: int = 150) -> list[Figure]:
    """Kill one of two ranks with SIGKILL in the middle of a round; compare with the round left alone."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        log = folder / "group.log"
        command = [sys.executable, "-m", "fl_client.group", place, "--processes", "2"]
        job = broken.silo_of(folder, steps)
        with log.open("w") as stream:
            process = subprocess.Popen(command, cwd=ROOT, stdout=stream, stderr=stream)
        try:
            job = broken.started(job)
            whole = broken.answered(folder, "fit", job)
            (kept,) = folder.glob("studies/*/steps/round.safetensors")
            kept.unlink()
            found, notes = broken.killed(folder, job, process.pid, steps)
        finally:
            process.terminate()
            process.wait()
        again = re.findall(r"training goes on after step (\d+)", log.read_text())
    return [
        true("rank killed: the round completes with the loss of every step", len(found.facts["losses"]) == steps),
        true("rank killed: the same losses to the bit", found.facts["losses"] == whole.facts["losses"]),
        true("rank killed: the same update to the bit", broken.same(found, whole)),
        report("rank killed: training went on after step", int(again[-1]), f"of {steps}"),
        at_most("rank killed: work done again", notes["again_s"], "seconds", broken.CHECKPOINT_S + notes["step_s"]),
        report("rank killed: until the result, beyond an unbroken round", notes["lost_s"], "seconds"),
    ]  # fmt: skip


def link(steps: int = 48) -> list[Figure]:
    """Train on two ranks at the ends of a slow link, counting batches of 8 blocks a second."""
    ways: dict[str, dict[str, Any]] = {
        "plain ddp": {"batch_size": 8},
        "ddp, 4 batches accumulated": {"batch_size": 32, "micro_batch": 4},
        "local_sgd(sync_every=8)": {"batch_size": 8, "parallel": "local_sgd(sync_every=8)"},
    }
    figures, reached = [], {}
    for where in ("loopback", "slow"):
        for name, options in ways.items():
            count = steps * 8 // options["batch_size"]
            if where == "loopback":
                found = train(2, count, **options)
            else:
                with links.slow(DELAY_S) as places:
                    found = train(2, count, places, links.INTERFACE, **options)
            seconds = max(
                sum(found["speed"][f"{part}/{r}"] for part in ("compute_s", "communication_s"))
                for r in range(2)
            )
            reached[where, name] = steps / seconds
            label = "loopback" if where == "loopback" else f"{DELAY_S * 1000:g} ms each way"
            figures.append(
                report(f"2 ranks, {label}: {name}", steps / seconds, "batches of 8 blocks a second")
            )
    for name in list(ways)[1:]:
        ratio = reached["slow", name] / reached["slow", "plain ddp"]
        figures.append(
            report(
                f"2 ranks, {DELAY_S * 1000:g} ms each way: {name} against plain ddp", ratio, "times"
            )
        )
    return figures


if __name__ == "__main__":
    app()
