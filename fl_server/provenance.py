"""Where a run came from: what its folder says of the study, the software and the machine."""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fl_client import digest
from fl_client.config import Study


def of(study: Study) -> dict[str, Any]:
    """Return what made this run: the study's hash, versions, the processor, the date."""
    return {
        "study_sha256": digest.of(study),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "packages": {
            name: _version(name)
            for name in ("bhasha-fl", "flwr", "numpy", "torch", "peft", "transformers")
        },
    }


def cpu() -> str:
    """Return the processor's name, with its family and model where Linux tells: one name is given to generations."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    first = text.partition("\n\n")[0]
    found = re.findall(r"^(model name|cpu family|model)\s*: (.+)$", first, re.M)
    said: dict[str, str] = dict(found)
    which = f" (family {said['cpu family']}, model {said['model']})" if len(said) == 3 else ""
    return said.get("model name", platform.machine()) + which


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
