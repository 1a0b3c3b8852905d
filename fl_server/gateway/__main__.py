"""``python -m fl_server.gateway HUB_FOLDER [--superlink PORT]``: run the hub gateway until SIGTERM.

It prints ``ready PORT`` once it listens.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fl_client import serving
from fl_server import hub as hubs
from fl_server.gateway import gate, local, server


@asynccontextmanager
async def open_(folder: Path, superlink: int) -> AsyncIterator[int]:
    """Listen for silos and for the hub's own programs, and give the public port; raises ``ConfigError``."""
    async with (
        gate.open_(folder, superlink) as own,
        server.open_(own) as (_, port),
        local.open_(own, hubs.socket(folder)),
    ):
        yield port


def main() -> int:
    """Run, and return the exit code: 2 where it cannot start as things are."""
    parser = argparse.ArgumentParser(prog="python -m fl_server.gateway", description=__doc__)
    parser.add_argument("hub", type=Path, help="the hub's folder")
    parser.add_argument("--superlink", type=int, default=0, help="Flower's port on loopback")
    given = parser.parse_args()
    return serving.run(open_(given.hub, given.superlink))


if __name__ == "__main__":
    sys.exit(main())
