"""A server in a process of its own: it says on which port it listens, and ends when it is asked to."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from contextlib import AbstractAsyncContextManager

from fl_client import pulse
from fl_client.config import ConfigError


def run(listening: AbstractAsyncContextManager[int]) -> int:
    """Serve until SIGTERM or SIGINT and return the exit code: 2, with one sentence, where it cannot start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_until_asked(listening))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


async def _until_asked(listening: AbstractAsyncContextManager[int]) -> None:
    end = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, end.set)
    async with listening as port:
        beats = asyncio.create_task(pulse.beating())
        sys.stdout.write(f"ready {port}\n")
        sys.stdout.flush()
        await end.wait()
        beats.cancel()
