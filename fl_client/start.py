"""``fl-client start``, ``status``, ``stop``, ``audit``: a silo's gateway, worker group and SuperNode, supervised."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from fl_client import (
    audit,
    children,
    clock,
    contact,
    enrol,
    forks,
    frames,
    greeting,
    heard,
    lock,
    machine,
    notice,
    plain,
    policy,
    ports,
    silo,
    sockets,
)
from fl_client.children import Child
from fl_client.config import ConfigError
from fl_client.silo import Settings

app = typer.Typer()
Dir = Annotated[Path, typer.Option("--dir", help="The silo's folder, made by join.")]
Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
BIN = Path(sys.executable).parent
DEAF_S = 60.0  # longer than others the SuperNode may be silent: first comes the gateway that is to hear it
CLOCK_S = 5.0  # how long a start waits for the hub to say what time it is
FLOWER = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "HF_HUB_OFFLINE": "1",  # the base was pinned when the silo joined; nothing is fetched later
}


@app.command()
def start(folder: Dir = Path("silo")) -> None:
    """Run the silo until it is stopped; what ends by itself is started again."""
    with plain.errors():
        folder = folder.absolute()
        settings = silo.read(folder)
        silo.check_path(folder)
        policy.read(folder)
        audit.check(folder)
        with lock.only_one(folder):  # also while it waits, so that it can be stopped
            if not enrol.approved(folder):
                return
            look_at_clock(folder)
            seen = machine.look(folder, gpus=True)
            greeting.keep(folder, machine.greeting(seen, settings.uplink_bytes_s))
            port = settings.gateway_port or ports.free()
            ports.check(f"127.0.0.1:{port}", "gateway_port in silo.toml")
            children.supervise(folder, family(folder, settings, port), held=True)


def look_at_clock(folder: Path) -> None:
    """Say where this machine's clock is off, or why the hub cannot be asked; the gateway goes on asking."""
    try:
        said = clock.warning(contact.clock(folder, CLOCK_S))
    except ConfigError as error:
        said = str(error)
    if said:
        notice.say(said)


def family(folder: Path, settings: Settings, port: int) -> list[Child]:
    """Return the programs of a silo, in the order in which they start."""
    environment = FLOWER | {"FLWR_HOME": str(forks.home(folder))}
    # The programs that Flower starts by name, and no others.
    only_ours = environment | {"PATH": str(forks.programs(folder))}
    python = [sys.executable, "-P", "-m"]  # nothing beside the silo's folder can shadow a package
    supernode = [
        str(BIN / "flower-supernode"), "--insecure", "--superlink", f"127.0.0.1:{port}",
        "--host", "127.0.0.1", "--port", str(ports.free()),
        "--node-config", f'silo="{folder}"',
    ]  # fmt: skip
    gateway = [*python, "fl_client.gateway", str(folder), "--port", str(port)]
    return [
        Child("gateway", gateway, environment, ports.answers(port)),
        Child(
            "workers",
            [*python, "fl_client.group", str(folder)],
            environment,
            partial(sockets.alive, frames.socket(folder)),
        ),
        Child(
            "forks",
            [*python, "fl_client.forks", str(folder)],
            environment | {"OPENBLAS_NUM_THREADS": "1"},  # a process with threads should not fork
            partial(sockets.alive, forks.path(folder)),
        ),
        Child("supernode", supernode, only_ours, None, partial(heard.silence, folder), DEAF_S),
    ]


@app.command()
def stop(folder: Dir = Path("silo")) -> None:
    """Stop the silo: workers write a step checkpoint and everything ends; ``start`` goes on from there."""
    with plain.errors():
        silo.read(folder)
        ran = children.stop(folder)
    Console().print("the silo is stopped" if ran else "the silo did not run")


@app.command()
def status(folder: Dir = Path("silo"), as_json: Json = False) -> None:
    """Show whether the silo runs, whether the hub lets it in, and what left today."""
    with plain.errors():
        found = standing(folder)
    if as_json:
        print(json.dumps(found))  # noqa: T201
        return
    table = Table(show_header=False)
    for key, value in found.items():
        table.add_row(key.replace("_", " "), "does not run" if value is None else str(value))
    Console().print(table)


def standing(folder: Path) -> dict[str, str | int | None]:
    """Return what is known of a silo, as plain data."""
    settings = silo.read(folder)
    try:
        contact.clock(folder)
        hub = "reached"
    except ConfigError as error:
        hub = str(error)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    left = [entry.bytes for entry in audit.read(folder, today)]
    return {
        "silo": settings.name,
        "federation": settings.federation,
        "address": settings.address,
        "pid": children.running(folder) or None,
        "hub": hub,
        "messages_today": len(left),
        "bytes_today": sum(left),
    }


@app.command("audit")
def audit_(
    folder: Dir = Path("silo"),
    since: Annotated[str, typer.Option(help="From a time on: 2026-11-21, or 2026-11-21T08.")] = "",
    as_json: Json = False,
) -> None:
    """Read what left this silo: one line for each message, with its size and its SHA-256."""
    with plain.errors():
        silo.read(folder)
        if not audit.SINCE.fullmatch(since):
            raise ConfigError(f"--since {since} is no time; give 2026-11-21, or 2026-11-21T08:30")
        entries = list(audit.read(folder, since))
    if as_json:
        for entry in entries:
            print(json.dumps(entry._asdict()))  # noqa: T201
        return
    table = Table("time (UTC)", "study", "round", "message", "bytes", "sha256")
    for entry in entries:
        kind = entry.kind.rpartition("/")[2]
        row = (entry.time[:19], entry.study, entry.round, kind)
        table.add_row(*row, f"{entry.bytes:,}", entry.sha256[:16])
    Console().print(table)
    named = sorted({entry.study for entry in entries if entry.study})
    total = sum(entry.bytes for entry in entries)
    Console().print(
        f"{len(entries)} messages, {total:,} bytes; studies: {', '.join(named) or 'none'}"
    )
