"""``fl-server start``: SuperLink on loopback, the hub gateway before it, and the queue of studies, supervised."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fl_client import children, lock, ports, pulse, sockets
from fl_client.children import Child
from fl_client.plain import errors
from fl_server import hub as hubs
from fl_server import serverapp

app = typer.Typer()
BIN = Path(sys.executable).parent
# No telemetry, no update check, tasks looked for ten times a second, and our programs first in PATH.
FLOWER = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
}


@app.command()
def start(
    hub: Annotated[
        Path, typer.Option("--hub", envvar="BHASHA_HUB", help="The hub's folder.")
    ] = Path("hub"),
) -> None:
    """Run the hub until it is stopped; what ends by itself is started again."""
    with errors():
        folder = hub.absolute()
        settings = hubs.read(folder)
        lock.check(folder)
        ports.check(settings.listen, "listen in hub.toml")
        port = settings.superlink_port or ports.free()
        children.supervise(folder, family(folder, port))


def family(folder: Path, port: int) -> list[Child]:
    """Return the programs of a hub, in the order in which they start."""
    environment = FLOWER | {
        "FLWR_HOME": str(folder / "flower"),
        hubs.WITHIN: str(folder),
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    # The programs that Flower starts by name, and no others.
    only_ours = environment | {"PATH": str(serverapp.programs(folder))}
    python = [sys.executable, "-P", "-m"]  # nothing beside the hub's folder can shadow a package
    database = str(folder / "superlink.db")
    superlink = [
        *python, "fl_server.superlink", database,
        str(BIN / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port", str(port),
        "--disable-runtime-dependency-installation", "--database", database,
    ]  # fmt: skip
    gateway = [*python, "fl_server.gateway", str(folder), "--superlink", str(port)]
    runner = [*python, "fl_server.runner", str(folder), "--superlink", str(port)]
    return [
        Child(
            "superlink",
            superlink,
            only_ours,
            ports.answers(port),
            pulse.unanswered(port, "/health"),
        ),
        Child("gateway", gateway, environment, partial(sockets.alive, hubs.socket(folder))),
        Child("runner", runner, environment, None),
    ]
