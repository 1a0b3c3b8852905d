"""Ports of this machine: a free one, whether one answers, whether one can be opened."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from pathlib import Path

from fl_client.address import split
from fl_client.config import ConfigError

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, TRIES = 10_000, 1_000


def free() -> int:
    """Return a port of loopback that nobody uses, below those that the system hands out by itself.

    One of those may be given to any connection before a program listens there, even to one that asks whether it does:
    that would then be connected with itself. Raises ``ConfigError`` where none is found.
    """
    for port in (random.SystemRandom().randrange(LOWEST, _handed_out()) for _ in range(TRIES)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ConfigError(
        f"no port of loopback is free above {LOWEST}; stop programs that listen there"
    )


def _handed_out() -> int:
    """Return the first port that the system hands out by itself."""
    try:
        return max(int(RANGE.read_text().split()[0]), LOWEST + 1_000)
    except (OSError, ValueError, IndexError):
        return 32_768


def answers(port: int) -> Callable[[], bool]:
    """Return whether something listens on a port of loopback, as a question to be asked again."""

    def ready() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
        except OSError:
            return False

    return ready


def check(address: str, setting: str) -> None:
    """Raise ``ConfigError`` where an address cannot be listened on; ``setting`` says where to change it."""
    host, port = split(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"nothing can listen on {address}: {error.strerror}; "
                f"free the port or change {setting}"
            ) from None
