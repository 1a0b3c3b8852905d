"""Flower's ``flwr-serverapp`` as a hub's SuperLink starts it: ``python -m fl_server.serverapp ARGUMENTS...``.

Whoever works on the hub's machine reaches the SuperLink on loopback, and could hand it an app of their own, which would
run as the hub's user and read its keys. Our bundle holds configuration and names what is installed. So nothing is ever
imported from where Flower unpacks apps, and of the programs that Flower starts by name there is this one.
"""

from __future__ import annotations

import os
import shlex
import sys
from importlib import metadata
from pathlib import Path

from fl_client.memory import write_whole

NAME = "flwr-serverapp"
OTHERS = ("flwr-agentapp", "flwr-clientapp", "flwr-connector", "flwr-model", "flwr-simulation")


def programs(folder: Path) -> Path:
    """Write the programs that Flower starts by name, and return their folder: it is the SuperLink's whole PATH."""
    place = folder / "bin"
    place.mkdir(mode=0o700, exist_ok=True)
    superexec = str(Path(sys.executable).parent / "flower-superexec")
    own = shlex.join([sys.executable, "-P", "-m", "fl_server.serverapp"])
    lines = {NAME: f'exec {own} "$@"', "flower-superexec": f'exec {shlex.quote(superexec)} "$@"'}
    for name, line in (lines | dict.fromkeys(OTHERS, "exit 1")).items():
        write_whole(place / name, f"#!/bin/sh\n{line}\n".encode())
        (place / name).chmod(0o700)
    return place


class Empty:
    """What is to be found in a folder of which nothing is imported."""

    def find_spec(self, name: str, target: object = None) -> None:
        """Return that there is no such module."""


def shut(apps: Path) -> None:
    """Let nothing below a folder be imported from now on."""

    def hook(entry: str) -> Empty:
        if not Path(entry).resolve().is_relative_to(apps.resolve()):
            raise ImportError
        return Empty()

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()


def main() -> None:
    """Become Flower's program."""
    shut(Path(os.environ["FLWR_HOME"]) / "apps")
    (found,) = metadata.entry_points(group="console_scripts", name=NAME)
    sys.argv = [NAME, *sys.argv[1:]]
    found.load()()


if __name__ == "__main__":
    main()
