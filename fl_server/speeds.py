"""How fast silos were in the studies that a hub has run, as its records tell."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from fl_client.config import ConfigError
from fl_server import queue, record


def measured(hub: Path, base: str) -> dict[str, float]:
    """Return the tokens a second of each silo's last round in a study of this base, where one can be read."""
    found: dict[str, float] = {}
    for ticket in queue.tickets(hub):  # the newest is the last, and each is read once
        with suppress(ConfigError):  # a study that cannot be read tells nothing
            same = queue.study_of(hub, ticket.name).model.base == base
            for line in record.lines(hub / "runs" / ticket.name) if same else []:
                for silo, note in line["silos"].items():
                    ranks = note.get("ranks", {}).get("tokens_s", {})
                    if 1 <= (speed := float(sum(ranks.values()))) < math.inf:  # as the silo said
                        found[silo] = speed
    return found
