"""What a person sees while a study runs."""

from __future__ import annotations

import io
import logging
import sys

from rich.console import Console
from rich.progress import Progress

from fl_server.simulation.screen import Watch


def test_why_a_silo_failed_is_shown_also_where_that_is_logged_later():
    out = io.StringIO()
    watch = Watch(Progress(console=Console(file=out, width=120)), 1, verbose=False)
    try:
        raise FileNotFoundError("the text is gone")
    except FileNotFoundError as error:
        told = (type(error), error, error.__traceback__)
    assert sys.exc_info() == (None, None, None)
    record = logging.LogRecord("silo", logging.ERROR, "", 0, "this silo failed", None, told)
    watch.emit(record)
    assert "this silo failed" in out.getvalue()
    assert "FileNotFoundError: the text is gone" in out.getvalue()
