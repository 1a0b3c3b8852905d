"""``python -m fl_client.gateway SILO_FOLDER [--port N]``: run the silo gateway until SIGTERM.

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
from fl_client.gateway import server


async def serve(folder: Path, port: int) -> None:
    """Run the gateway of a silo's folder until SIGTERM or SIGINT; raises ``ConfigError``."""
    end = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, end.set)
    async with server.open_(folder, port) as listening:
        sys.stdout.write(f"ready {listening}\n")
        sys.stdout.flush()
        await end.wait()


def main() -> int:
    """Run, and return the exit code: 2 where it cannot start as things are."""
    parser = argparse.ArgumentParser(prog="python -m fl_client.gateway", description=__doc__)
    parser.add_argument("silo", type=Path, help="the silo's folder")
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(serve(given.silo, given.port))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
