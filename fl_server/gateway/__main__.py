"""``python -m fl_server.gateway HUB_FOLDER [--superlink PORT]``: run the hub gateway until SIGTERM.

It prints ``ready PORT`` once it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from pathlib import Path

from fl_client.config import ConfigError
from fl_server import hub as hubs
from fl_server.gateway import gate, local, server


async def serve(folder: Path, superlink: int) -> None:
    """Run the gateway of a hub's folder until SIGTERM or SIGINT; raises ``ConfigError``."""
    end = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, end.set)
    async with (
        gate.open_(folder, superlink) as own,
        server.open_(own) as (_, port),
        local.open_(own, hubs.socket(folder)),
    ):
        sys.stdout.write(f"ready {port}\n")
        sys.stdout.flush()
        await end.wait()


def main() -> int:
    """Run, and return the exit code: 2 where it cannot start as things are."""
    parser = argparse.ArgumentParser(prog="python -m fl_server.gateway", description=__doc__)
    parser.add_argument("hub", type=Path, help="the hub's folder")
    parser.add_argument("--superlink", type=int, default=0, help="Flower's port on loopback")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(given.hub, given.superlink))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
