"""Where Unix sockets lie: paths end at 107 bytes, so they stand in a short folder of the system's temporary folder."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

from fl_client.config import ConfigError


def path(folder: Path, name: str) -> Path:
    """Return where the socket ``name`` of a silo's or hub's folder lies; makes its folder, for this user alone.

    Raises ``ConfigError`` where someone else holds that folder: other users may write beside it.
    """
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    place = Path(tempfile.gettempdir()) / f"bhasha-{digest}"
    place.mkdir(mode=0o700, exist_ok=True)
    held = place.lstat()
    if (
        not stat.S_ISDIR(held.st_mode)
        or held.st_uid != os.geteuid()
        or stat.S_IMODE(held.st_mode) & 0o077
    ):
        raise ConfigError(f"{place} is not this user's alone; remove it and try again")
    return place / f"{name}.sock"


def alive(path: Path) -> bool:
    """Return whether something listens on a Unix socket now; a file may be left of one that was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.setblocking(False)  # one that works for days may have no place left in its queue
        return connection.connect_ex(str(path)) in {0, errno.EAGAIN}
