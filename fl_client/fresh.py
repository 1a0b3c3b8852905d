"""A folder that someone asked for by name: it is there whole or not at all, and nothing of theirs is touched."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_client.config import ConfigError

FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """Give a folder for this user alone, which becomes ``out`` in the end; it is gone where that fails.

    Raises ``ConfigError`` where there is something already, or where the disk is full.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; choose another --out")
    place = out.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        yield part
        part.replace(place)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in FULL:  # which may name what was copied
            raise ConfigError(
                f"there is no room for {out}: {error.strerror}; make room or choose another --out"
            ) from error
        raise
