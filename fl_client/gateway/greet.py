"""The silo's greeting, told over the line as soon as that is there: a hub may be away when a silo starts.

The hub answers with its time, so a silo whose clock is off learns it, however late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

from fl_client import clock, greeting
from fl_client.gateway import link
from fl_client.gateway.link import Call, Link, Patience

LOG = logging.getLogger("bhasha_fl.gateway")
PATIENT = Patience(25.0, 28.0)
AGAIN_S = 30.0  # between two times of trying


@contextlib.asynccontextmanager
async def saying(folder: Path, line: Link) -> AsyncIterator[None]:
    """Greet the hub once while the context is open, as late as it takes; not where nothing is known to say."""
    greets = asyncio.create_task(_greet(folder, line))
    try:
        yield
    finally:
        greets.cancel()
        await asyncio.gather(greets, return_exceptions=True)


async def _greet(folder: Path, line: Link) -> None:
    facts = greeting.recall(folder)
    if not facts:
        return
    call = Call("/v1/silo/hello", json.dumps(greeting.whole(folder, facts)).encode())
    while (found := await link.send(line, call, PATIENT)).status in link.BROKEN:
        await asyncio.sleep(AGAIN_S)
    if found.status != 200:
        LOG.warning("the hub answers %d to this silo's greeting", found.status)
        return
    with contextlib.suppress(ValueError, KeyError, TypeError):  # an older hub does not say
        said = clock.warning(time.time() - float(json.loads(found.body)["time"]))
        if said:
            LOG.warning("%s", said)
