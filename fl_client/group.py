"""A silo's worker group: ``python -m fl_client.group SILO`` keeps its ranks running through torch elastic.

A rank that dies takes its group down; it starts again with the devices that are there then, and the silo's job goes on
from its last step checkpoint with the same global batch. The ranks of one machine meet in a file and talk over
loopback: nothing of them can be reached from outside. Several machines meet at ``--rdzv-endpoint``, a port for a
network of their own.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fl_client import frames, pulse, ranks, silo
from fl_client.config import ConfigError
from fl_client.plain import errors

LOG = logging.getLogger("bhasha_fl.group")
LONGEST_WAIT_S = 60.0  # between two starts
STEADY_S = 60.0  # a group that lived so long starts again without waiting
RESTARTS = 1000  # of several machines together, which elastic does itself
LOOPBACK = {"linux": "lo", "darwin": "lo0"}.get(sys.platform, "")


class Shape(NamedTuple):
    """How large a group is: processes on this machine ("auto" or a number), machines at least and at most, where."""

    processes: str
    threads: int
    least: int = 1
    most: int = 1
    endpoint: str = ""
    follow: bool = False


def main(
    folder: Annotated[Path, typer.Argument(metavar="SILO", help="The silo's folder.")],
    processes: Annotated[
        str, typer.Option(help="Processes on this machine: a number, or auto: one for each GPU.")
    ] = "",
    nnodes: Annotated[
        str,
        typer.Option(envvar="BHASHA_NNODES", help="Machines that train together: N or MIN:MAX."),
    ] = "",
    rdzv_endpoint: Annotated[
        str,
        typer.Option(envvar="BHASHA_RDZV_ENDPOINT", help="Where several meet, host:port."),
    ] = "",
    follow: Annotated[
        bool, typer.Option(help="Another machine serves the silo; this one only works.")
    ] = False,
) -> None:
    """Run a silo's worker group until it is stopped. What is not given stands in silo.toml."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with errors():
        shape = shaped(silo.read(folder), processes, nnodes, rdzv_endpoint, follow)
        try:
            run(folder.absolute(), shape)
        except SignalException as error:
            LOG.info("the worker group ends: %s", error)


def shaped(
    settings: silo.Settings, processes: str, nnodes: str, endpoint: str, follow: bool
) -> Shape:
    """Return the shape from what was given and the silo's settings; raises ``ConfigError``."""
    machines = nnodes or str(settings.nnodes)
    least, _, most = machines.partition(":")
    numbers = [least, most or least]
    if not all(n.isdecimal() and int(n) > 0 for n in numbers) or int(numbers[0]) > int(numbers[1]):
        raise ConfigError(f"--nnodes={machines!r} must be a number of machines, or MIN:MAX")
    wanted = processes or settings.processes
    if wanted != "auto" and not (wanted.isdecimal() and int(wanted) > 0):
        raise ConfigError(f"--processes={wanted!r} must be auto or a number above 0")
    shape = Shape(wanted, settings.threads, int(numbers[0]), int(numbers[1]))
    shape = shape._replace(endpoint=endpoint or settings.rdzv_endpoint, follow=follow)
    if shape.most > 1 and not shape.endpoint:
        raise ConfigError("several machines need a place to meet: give --rdzv-endpoint host:port")
    if shape.most == 1 and follow:
        raise ConfigError("--follow is for one of several machines; leave it out or give --nnodes")
    return shape


def devices(processes: str) -> int:
    """Return how many ranks this machine can have now: a GPU each, or as many as asked for on a CPU."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = int(processes) if processes != "auto" else max(1, gpus)
    return min(wanted, gpus) if gpus else wanted


def run(folder: Path, shape: Shape) -> None:
    """Start the ranks, and again whenever they end; raises elastic's ``SignalException`` when asked to stop."""
    wait_s = 1.0
    while True:
        frames.socket(folder).unlink(missing_ok=True)  # a killed group left it
        pulse.forget(pulse.own())
        count, began = devices(shape.processes), time.monotonic()
        LOG.info("starting %d ranks on this machine", count)
        try:
            launch(folder, shape, count)
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            LOG.warning("a rank ended with %s; the group starts again", failure.exitcode)
        wait_s = 1.0 if time.monotonic() - began > STEADY_S else min(2 * wait_s, LONGEST_WAIT_S)
        time.sleep(wait_s / 2)


def launch(folder: Path, shape: Shape, count: int) -> None:
    """Run one life of the group; raises elastic's ``ChildFailedError`` when a rank dies."""
    with tempfile.TemporaryDirectory(prefix="bhasha-ranks-") as place:
        os.environ.update(environment(shape, count, place))
        config = LaunchConfig(
            min_nodes=shape.least,
            max_nodes=shape.most,
            nproc_per_node=count,
            logs_specs=DefaultLogsSpecs(log_dir=place),
            **(_one(place) if shape.most == 1 else _several(folder, shape)),
        )
        elastic_launch(config, sys.executable)("-m", "fl_client.rank", str(folder))


def environment(shape: Shape, count: int, place: str) -> dict[str, str]:
    """Return what the ranks find in their environment."""
    threads = shape.threads or max(1, (os.cpu_count() or 1) // count)
    found = {"OMP_NUM_THREADS": str(threads)}
    if not shape.follow:
        found[ranks.HEAD] = "1"
    if shape.most == 1:
        found |= {ranks.STORE: f"{place}/ranks", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        if LOOPBACK:
            found |= {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    return found


def _one(place: str) -> dict[str, Any]:
    """Return how one machine meets itself: in a file that only this user may open. No port is opened."""
    return {
        "rdzv_backend": "c10d",
        "rdzv_endpoint": f"{place}/rendezvous",
        "rdzv_configs": {"store_type": "file"},
        "run_id": uuid.uuid4().hex,
        "local_addr": "127.0.0.1",
        "max_restarts": 0,  # the next start counts the devices again
    }


def _several(folder: Path, shape: Shape) -> dict[str, Any]:
    """Return how several machines meet; elastic starts them again together."""
    return {
        "rdzv_backend": "c10d",
        "rdzv_endpoint": shape.endpoint,
        "run_id": f"bhasha-{silo.read(folder).name}",
        "max_restarts": RESTARTS,
    }


if __name__ == "__main__":
    typer.run(main)
