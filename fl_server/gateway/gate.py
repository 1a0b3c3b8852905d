"""What the parts of the gateway share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from fl_client.config import ConfigError
from fl_server import hub as hubs
from fl_server.gateway import pulls, relay, seen, spool
from fl_server.gateway.bell import Bell
from fl_server.gateway.pulls import Pulls
from fl_server.gateway.relay import Answer, Relay
from fl_server.gateway.seen import Seen
from fl_server.gateway.spool import Spool
from fl_server.hub import Hub

ANSWERED = 4096


class Gate(NamedTuple):
    """A running gateway."""

    folder: Path
    process: str  # another one in each process: what was heard of one says nothing of the next
    settings: Hub
    relay: Relay
    seen: Seen
    spool: Spool
    pulls: Pulls
    kicks: Bell  # rings when there are messages to fetch
    ready: Bell  # rings when a reply, or a refusal, is there
    deliveries: dict[str, asyncio.Task[int]]
    answered: deque[
        tuple[int, str]
    ]  # the messages of which a reply was delivered, by the ring that said so


class Call(NamedTuple):
    """One request: whose, what, and whether that silo is still on the roster."""

    silo: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    parts: AsyncIterable[bytes]  # the body as it comes, for a route that streams
    admitted: Callable[[], bool]
    asked: Any = None  # the body of one of Flower's calls, read
    node: int = 0  # the node that the silo is in Flower


class Route(NamedTuple):
    """Who answers a path, the bytes its body may have, whether a stranger may call, what says if there is room.

    Where it streams, its body is read by who answers, as it comes.
    """

    answer: Callable[[Gate, Call], Awaitable[Answer]]
    cap: int = 0
    stranger: bool = False
    room: Callable[[Spool, str, int], bool] | None = None
    streams: bool = False


@contextlib.asynccontextmanager
async def open_(folder: Path, superlink: int) -> AsyncIterator[Gate]:
    """Give the gateway of a hub's folder, with all that it kept on disk; raises ``ConfigError``."""
    settings = hubs.read(folder)
    port = superlink or settings.superlink_port
    if not port:
        raise ConfigError("the SuperLink's port is not known; give --superlink PORT")
    for name in ("keys", "seen", "spool"):
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    held = await asyncio.to_thread(spool.load, folder / "spool", settings.spool_bytes)
    kept, known = pulls.load(folder / "spool"), seen.load(folder / "seen")
    before = await asyncio.to_thread(spool.answered, folder / "spool")
    told = deque(((0, message) for message in before), ANSWERED)
    _ask_again(known, kept)
    way = relay.open_(folder / "keys", port)
    try:
        yield Gate(folder, uuid4().hex, settings, way, known, held, kept, Bell(), Bell(), {}, told)
    finally:
        await relay.close(way)


def _ask_again(known: Seen, kept: Pulls) -> None:
    """Count a silo as started anew where nothing is kept for it, so that the rounds ask it again.

    The SuperLink gives a message out once, and the gateway before this one may have ended with it in its hands. A silo
    that has it after all answers twice, a round that it has trained from its outbox.
    """
    for name, silo in known.silos.items():
        if silo.node and pulls.current(kept, name) is None:
            seen.note(known, name, activations=silo.activations + 1)
