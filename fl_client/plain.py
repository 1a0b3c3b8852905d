"""What a user sees when something cannot be done: one plain sentence on standard error, exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from fl_client.config import ConfigError


@contextmanager
def errors() -> Iterator[None]:
    """Say a ``ConfigError``, a missing package or a full disk in one sentence and end with exit code 2."""
    try:
        yield
    except ConfigError as error:
        said = str(error)
    except ImportError as error:
        said = f"this needs {error.name}: pip install 'bhasha-fl[silo]'"
    except OSError as error:
        said = f"{error.filename or 'the disk'}: {error.strerror or error}"
    else:
        return
    Console(stderr=True).print(f"error: {said}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)
