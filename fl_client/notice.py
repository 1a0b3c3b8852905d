"""What the one who started a silo or a hub is told: lines on standard error, and its state where systemd asks for it.

A unit of ``Type=notify`` is told when all programs are ready, that the supervisor still looks after them, and that it
stops: sd_notify(3).
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress


def say(event: str) -> None:
    """Write what happened to standard error, and as the status that ``systemctl status`` shows."""
    with suppress(OSError, ValueError):  # the terminal may be gone; the programs go on
        sys.stderr.write(event + "\n")
        sys.stderr.flush()
    tell(f"STATUS={event.splitlines()[0] if event else ''}")


def tell(state: str) -> None:
    """Send a state such as ``READY=1`` to systemd; nothing where it did not start us, or does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # a name that is no file
        address = "\0" + address[1:]
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)
        line.sendto(state.encode(), address)
