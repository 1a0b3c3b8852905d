"""Ports of this machine: a free one, whether one answers, whether one can be opened."""

from __future__ import annotations

import socket
from collections.abc import Callable

from fl_client.address import split
from fl_client.config import ConfigError


def free() -> int:
    """Return a port of loopback that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
