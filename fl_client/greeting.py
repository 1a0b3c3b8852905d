"""What a silo tells its hub of itself: its machine as ``start`` found it, its text as it was counted, its settings.

It is kept on disk, so that the gateway can tell it whenever the line is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl_client import policy, silo, volume
from fl_client.memory import write_whole

FILE = "machine.json"


def keep(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what ``machine.greeting`` says into the silo's folder."""
    write_whole(folder / FILE, json.dumps(facts, sort_keys=True).encode())


def recall(folder: Path) -> dict[str, Any]:
    """Return what was kept; empty where nothing was."""
    try:
        found = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def whole(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the greeting: these facts of a machine, and what the settings and the count of the text say.

    The count is left out where the silo's policy lets none out. Raises ``ConfigError``, also where there is no policy.
    """
    own = silo.read(folder)
    wanted, line = own.processes, {"round_bytes": own.round_bytes, "update_hours": own.update_hours}
    known: dict[str, Any] = {key: value for key, value in line.items() if value}
    known |= {
        "languages": volume.recall(folder),
        "processes": 0 if wanted == "auto" else int(wanted),
    }
    said = known | dict(facts)
    if not policy.matches("languages", policy.read(folder).egress.facts):
        del said["languages"]
    return said
