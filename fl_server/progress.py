"""Where a running study stands: who was asked, who answered. Written to one small file for ``fl-server status``."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fl_client.memory import write_whole

FILE = "progress.json"
NOTHING: dict[str, Any] = {"round": 0, "asked_for": "", "answered": [], "waiting": []}


class Progress(logging.Handler):
    """Keeps ``progress.json`` up to date from what the rounds log."""

    def __init__(self, folder: Path) -> None:
        super().__init__(logging.DEBUG)
        self._path = folder / FILE
        self._now = NOTHING | read(folder)  # a study that goes on is where it was

    def emit(self, record: logging.LogRecord) -> None:
        """Take one event into the file."""
        event = getattr(record, "event", {})
        match event.get("kind"):
            case "ask":
                self._now |= {
                    "asked_for": event["what"],
                    "since": datetime.now(UTC).isoformat(timespec="seconds"),
                    "answered": [],
                    "waiting": sorted(event["silos"]),
                }
            case "answer":
                self._now["answered"] = [*self._now["answered"], event["silo"]]
                self._now["waiting"] = [s for s in self._now["waiting"] if s != event["silo"]]
            case "round":
                self._now["round"] = event["line"]["round"]
            case _:
                return
        with suppress(OSError):  # what only shows must not end a study
            write_whole(self._path, json.dumps(self._now).encode())


def read(folder: Path) -> dict[str, Any]:
    """Return where a study stands; empty if it never ran, or where the file cannot be read: it only shows."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
