"""Ray itself: the cluster that ``RAY_ADDRESS`` names, or one of this machine's processes, and how many actors fit."""

from __future__ import annotations

import logging
import os
import socket
import sys
from math import inf
from typing import NamedTuple

from fl_client.config import ConfigError
from fl_server.simulation import heap
from fl_server.simulation.pool import cores

KNOCK_S = 10.0


class Room(NamedTuple):
    """How many actors fit, with so many CPUs and GPUs each, and by how many cores the lots of silos are cut."""

    actors: int
    cpus: int
    gpus: int
    cores: int


def join(processes: int, threads: int) -> Room:
    """Join the cluster, or start one of so many processes here, and return the room; raises ``ConfigError``."""
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs Ray: pip install 'bhasha-fl[ray]'") from None
    heap.keep()
    cpus = max(1, threads)
    address = os.environ.get("RAY_ADDRESS", "")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or Ray warns of it
    carried = {"PYTHONPATH": os.pathsep.join(sys.path), "GLIBC_TUNABLES": heap.TUNABLES}
    _knock(address)
    ray.init(
        address or "local",
        num_cpus=None if address else processes * cpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": carried},
    )
    held = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(any(node.get("GPU") for node in held))
    fits = [int(min(n.get("CPU", 0) // cpus, n.get("GPU", 0) if gpus else inf)) for n in held]
    if not sum(fits):
        leave()
        raise ConfigError(
            f"no machine of the Ray cluster has the {cpus} CPUs that train.threads={threads} asks for"
        )
    return Room(sum(fits), cpus, gpus, max(cores(), sum(fits)) if address else cores())


def _knock(address: str) -> None:
    """Raise ``ConfigError`` where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), KNOCK_S).close()
    except OSError:
        raise ConfigError(
            f"no Ray cluster answers at RAY_ADDRESS={address!r}; start one with `ray start --head`, "
            "or unset RAY_ADDRESS to use this machine alone"
        ) from None


def leave() -> None:
    """Leave the cluster: its actors of this program end, and so does a cluster that was started here."""
    import ray

    ray.shutdown()
