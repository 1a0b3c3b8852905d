"""The signed study of each Flower run, as the queue registered it; on disk, so that it outlives this process."""

from __future__ import annotations

import re
from pathlib import Path

from fl_client.memory import write_whole

RUN = re.compile(r"[0-9]{1,20}")


def keep(hub: Path, run: int, envelope: bytes) -> None:
    """Keep the signed study of a run."""
    write_whole(_path(hub, str(run)), envelope)


def find(hub: Path, run: str) -> bytes:
    """Return the signed study of a run, empty where there is none."""
    if not RUN.fullmatch(run):
        return b""
    try:
        return _path(hub, run).read_bytes()
    except FileNotFoundError:
        return b""


def _path(hub: Path, run: str) -> Path:
    return hub / "studies" / "runs" / f"{run}.json"
