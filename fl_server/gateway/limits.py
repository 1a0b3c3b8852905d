"""What a stranger can cost the hub: connections, their time, and the bytes of a body. All checked before reading on.

Connections are counted at the door, before TLS. Where an address or a silo has too many, its oldest makes room for
the newest: dead ones, and those that only sit there, do not shut out a silo that comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp import web

LOG = logging.getLogger("bhasha_fl.gateway")
HANDSHAKE_S, GOODBYE_S = 10.0, 2.0
IDLE_S = 20.0  # for the first request after the handshake; with the grace for the next ones, a silo lets go after 25 s
GRACE_S, RATE = 10.0, 1024.0  # a body, and a reader, must keep 1 KiB/s after 10 s
ALL = 1024  # connections in all; each costs a descriptor


class Refused(Exception):
    """A request that is turned down, with its HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class Link:
    """One connection: from where, whose once it is known, and until when it may go on like this."""

    def __init__(self, address: str, now: float) -> None:
        self.address, self.until = address, now + HANDSHAKE_S + IDLE_S
        self.silo = ""
        self.opening: asyncio.Task[None] | None = None
        self.protocol: asyncio.Protocol | None = None

    def closed(self) -> bool:
        """Return whether nothing is left of it."""
        opened = self.opening is None or self.opening.done()
        return opened and getattr(self.protocol, "transport", None) is None

    def cut(self) -> None:
        """End it at once, without a word."""
        if self.opening is not None and not self.opening.done():
            self.opening.cancel()
        transport = getattr(self.protocol, "transport", None)
        if transport is not None:
            transport.abort()


class Door(NamedTuple):
    """Where connections come in, and those that are open, oldest first."""

    server: web.Server
    context: ssl.SSLContext
    most: int
    links: list[Link]


async def admit(door: Door, listener: socket.socket) -> None:
    """Take connections in until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            taken, address = await loop.sock_accept(listener)
        except OSError as error:  # such as no descriptors left: those in use come back
            LOG.warning("no connection can be taken in: %s", error.strerror)
            await asyncio.sleep(0.2)
            continue
        link = Link(address[0], loop.time())
        _make_room(door, [each for each in door.links if not each.silo], link)
        door.links.append(link)
        link.opening = loop.create_task(_open(door, taken, link))


async def _open(door: Door, taken: socket.socket, link: Link) -> None:
    def make() -> asyncio.Protocol:
        link.protocol = door.server()
        return link.protocol

    loop = asyncio.get_running_loop()
    try:
        await loop.connect_accepted_socket(
            make,
            taken,
            ssl=door.context,
            ssl_handshake_timeout=HANDSHAKE_S,
            ssl_shutdown_timeout=GOODBYE_S,
        )
    except (OSError, asyncio.CancelledError):  # a bad certificate is an SSLError, so an OSError
        taken.close()


def _make_room(door: Door, strangers: list[Link], link: Link) -> None:
    same = [each for each in strangers if each.address == link.address and not each.closed()]
    if len(same) >= door.most:
        _drop(door, same[0])
    if len(door.links) >= ALL:
        sweep(door)
    if len(door.links) >= ALL:
        _drop(door, (strangers or door.links)[0])


def _drop(door: Door, link: Link) -> None:
    link.cut()
    with contextlib.suppress(ValueError):
        door.links.remove(link)


def sweep(door: Door) -> None:
    """Forget connections that are gone and cut those whose time is up."""
    now = asyncio.get_running_loop().time()
    for link in door.links:
        if now > link.until:
            link.cut()
    door.links[:] = [link for link in door.links if not link.closed()]


def enter(door: Door, request: web.BaseRequest, silo: str) -> Link:
    """Return the connection of a request that starts; ``silo`` is '' for a stranger."""
    link = next((each for each in door.links if each.protocol is request.protocol), None)
    if link is None:  # its place was given to a newer one
        raise Refused(503)
    link.until = float("inf")  # from here on each step has its own deadline
    if silo and not link.silo:
        own = [each for each in door.links if each.silo == silo and not each.closed()]
        if len(own) >= door.most:
            _drop(door, own[0])
        link.silo = silo
    return link


def leave(link: Link, answer: int) -> None:
    """Give a connection the time to take an answer of so many bytes, and to ask again.

    Over TLS an answer counts as written long before it has left: only this keeps a slow line from being cut.
    """
    link.until = asyncio.get_running_loop().time() + GRACE_S + IDLE_S + answer / RATE


def length(request: web.BaseRequest, cap: int) -> int:
    """Return the bytes that a body will have; raises ``Refused`` where that is not said or above the cap."""
    if "Content-Encoding" in request.headers:
        raise Refused(411)
    said = request.content_length
    if said is None and request.method == "POST":
        raise Refused(411)
    if (said or 0) > cap:
        raise Refused(413)
    return said or 0


async def parts(request: web.BaseRequest, size: int) -> AsyncIterator[bytes]:
    """Yield a body of this size as it comes; raises ``Refused`` where it comes too slowly or ends early."""
    began, got = asyncio.get_running_loop().time(), 0
    while got < size:
        try:
            async with asyncio.timeout_at(began + GRACE_S + got / RATE):
                part = await request.content.readany()
        except TimeoutError:
            raise Refused(408) from None
        if not part:
            raise Refused(400)
        got += len(part)
        yield part
