"""What a user sees when something cannot be done: one plain sentence on standard error, exit code 2."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from fl_client.config import ConfigError

OF_DISKS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextmanager
def errors() -> Iterator[None]:
    """Say a ``ConfigError``, a missing package or what the system refuses in one sentence and end with exit code 2."""
    try:
        yield
    except ConfigError as error:
        said = str(error)
    except ImportError as error:
        said = f"this needs {error.name}: pip install 'bhasha-fl[silo]'"
    except OSError as error:
        said = sentence(error)
    else:
        return
    Console(stderr=True).print(f"error: {said}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def sentence(error: OSError) -> str:
    """Return what the system refused, and where it says so of what."""
    if error.errno is None:  # a library's own words
        return str(error) or type(error).__name__
    where = "the disk" if error.errno in OF_DISKS else "the operating system"
    return f"{error.filename or where}: {error.strerror}"
