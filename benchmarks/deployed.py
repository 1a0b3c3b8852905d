"""The figures of a deployed federation: real SuperLink, SuperNodes, gateways and worker groups on this machine.

``python -m benchmarks.deployed NAME`` with one of: floor, cost, restart, cut-200, cut-600, hub-killed, silo-killed,
large, kit, line-64k, line-256k, line-1m, disk-full, clock.
"""

from __future__ import annotations

import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import psutil
import typer

from benchmarks import clocks, cuts, gpu, peer, shortage, uploads
from benchmarks.federation import edit
from benchmarks.figures import Figure, at_least, at_most, report, write
from benchmarks.stage import NOTHING, running, said, times
from fl_client.config import from_flat
from fl_server import record

TOPIC = "deployed"
# What a ClientApp in a process of its own does for each message before it can begin to train.
ALONE = """
from fl_client import bases, work
bases.model("builtin:tiny"), bases.tokenizer("builtin:tiny")
"""

app = typer.Typer()


@app.command()
def main(name: Annotated[str, typer.Argument(help="Which figures to measure.")]) -> None:
    """Measure one group of figures and write it to benchmarks/results/deployed.json."""
    groups = {
        "floor": floor,
        "cost": cost,
        "restart": restart,
        "cut-200": lambda: cuts.cut(200),
        "cut-600": lambda: cuts.cut(600),
        "hub-killed": cuts.hub_killed,
        "silo-killed": cuts.silo_out,
        "large": large,
        "kit": kit,
        "line-64k": lambda: uploads.over(64_000),
        "line-256k": lambda: uploads.over(256_000),
        "line-1m": lambda: uploads.over(1_000_000),
        "disk-full": shortage.full,
        "clock": clocks.off,
    }
    if name not in groups:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(groups)}")
    write(TOPIC, groups[name](), f"python -m benchmarks.deployed {name}")


def floor() -> list[Figure]:
    """Measure twelve rounds of next to no training: what a round costs whatever is trained in it."""
    with running(from_flat(NOTHING | {"rounds": 14})) as made:
        made.run()
        made.finished()
        at = times(said(made), r"round \d+ is committed")  # from round 0 on
    seconds = [at[n] - at[n - 1] for n in range(2, 14)]
    label = "round floor, 2 silos on loopback"
    return [
        at_most(f"{label}: median of 12", statistics.median(seconds), "s", 1.2),
        report(f"{label}: fastest", min(seconds), "s"),
        report(f"{label}: slowest", max(seconds), "s"),
    ]


def cost() -> list[Figure]:
    """Measure the CPU seconds of a message in a silo, beside a process that loads Torch and the base for each."""
    with running(from_flat(NOTHING | {"rounds": 14})) as made:
        folder = str(made.silos["as-1"].folder / "silo")
        made.run()
        made.until(lambda: made.standing()["round"] >= 3, "three rounds")
        first, before = made.standing()["round"], spent(folder)
        made.until(lambda: made.standing()["round"] >= 12, "twelve rounds")
        last, after = made.standing()["round"], spent(folder)
    ours = (after - before) / (last - first)
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True)
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime
    return [
        report("fixed cost of a message in a silo: gateway, SuperNode, task", ours, "CPU s"),
        report("a process that imports Torch and PEFT and loads the base", theirs, "CPU s"),
        at_most("fixed cost of a message: of such a process", ours / theirs, "times", 0.2),
    ]


def spent(folder: str) -> float:
    """Return the CPU seconds that a silo's programs have used, without its workers; tasks count with their parent."""
    total = 0.0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            if folder in words and "fl_client.rank" not in words and "fl_client.group" not in words:
                times = process.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def kit() -> list[Figure]:
    """Count what a new silo types from its kit to its first update that counts, and time it."""
    began = time.monotonic()
    with running(from_flat(NOTHING | {"rounds": 1})) as made:
        made.run()
        made.finished()
        seconds = time.monotonic() - began
        folder = made.hub.folder / "hub" / "runs" / made.study.name
        counted = record.lines(folder)[1]["silos"]
        most = max(len(place.typed) for place in made.silos.values())
        told = made.silos["as-1"].typed
    if any("refused" in note for note in counted.values()) or len(counted) != len(made.silos):
        raise RuntimeError(f"not every update counted: {counted}")
    return [
        at_most("a new silo, from its kit to its first update that counts", most, "commands", 4),
        report("the commands", ", ".join(" ".join(words.split()[:2]) for words in told), ""),
        report("hub and two silos, from nothing to a study's end", seconds, "s"),
    ]


def restart() -> list[Figure]:
    """Kill a silo and all its programs in mid-round, start it again, and time until it trains on."""
    long = {"train.steps": 3000, "rounds": 1, "simulation.languages": "as", "simulation.silos": 1}
    with running(from_flat(NOTHING | long), checkpoint_s="5.0") as made:
        place = made.silos["as-1"]
        workers = place.folder / "silo" / "logs" / "workers.log"
        made.run()
        steps = place.folder / "silo" / "studies"
        made.until(lambda: list(steps.glob("*/steps/round.safetensors")), "a step checkpoint")
        place.started[0].send_signal(signal.SIGKILL)
        place.started[0].wait()
        began = time.monotonic()
        place.start("fl-client start")
        made.until(lambda: "training goes on after step" in workers.read_text(), "training", 300)
        seconds = time.monotonic() - began
        made.finished()
    return [at_most("a silo killed in mid-round: seconds until it trains on", seconds, "s", 90)]


def large() -> list[Figure]:
    """Time updates of about 50 and 600 MB from the end of training to the hub's hands, beside Flower's own way."""
    figures = []
    for shape, label in (((192, 512, 4, 6, 2), "50 MB"), ((1024, 2816, 8, 16, 4), "600 MB")):
        size, seconds = brought(shape)
        theirs = statistics.median(peer.seconds(size))
        ours = statistics.median(seconds)
        figures += [
            report(f"update of {label}: size", size / 1e6, "MB"),
            report(f"update of {label}: from the end of training to the hub's hands", ours, "s"),
            report(f"update of {label}: effective", size / 1e6 / ours, "MB/s"),
            report(f"update of {label}: Flower alone, in the same run", size / 1e6 / theirs, "MB/s"),
            at_least(f"update of {label}: against Flower alone", theirs / ours, "times", 4),
        ]  # fmt: skip
    return figures


def brought(shape: tuple[int, ...]) -> tuple[int, list[float]]:
    """Return the bytes of an update of rank 1024 for a base of this shape, and the seconds that each of five took.

    Counted from the end of training to the hub's hands, so with all that the silo does to be able to send it again.
    """
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        return _brought(gpu.large(Path(folder) / "base", shape))


def _brought(base: str) -> tuple[int, list[float]]:
    changes = {
        "model.base": base, "model.rank": 1024, "model.targets": "all-linear", "codec": "float32()", "rounds": 6,
        "train.keep_optimizer": False, "simulation.languages": "as", "simulation.silos": 1,
    }  # fmt: skip
    study = from_flat(NOTHING | changes)
    with running(study) as made:
        silo = made.silos["as-1"].folder / "silo"
        edit(silo / "policy.toml", max_rank="1024", max_bytes_per_round="8000000000")
        edit(made.hub.folder / "hub" / "hub.toml", spool_bytes=str(4 << 30))
        made.run()
        made.finished(1500)
        log = made.hub.folder / "hub" / "queue" / study.name / "log.txt"
        there = times(log.read_text(), r"node \d+ brought")
        trained = times((silo / "logs" / "workers.log").read_text(), r"\S+ round \d+: loss")
        folder = made.hub.folder / "hub" / "runs" / study.name
        size = record.lines(folder)[-1]["silos"]["as-1"]["up"]
    pairs = list(zip(trained, there[-len(trained) :], strict=True))
    return size, [got - ended for ended, got in pairs[1:]]  # the first also warms up


if __name__ == "__main__":
    app()
