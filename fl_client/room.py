"""What stays free of a disk, at a hub and at a silo: what would leave less is not taken in."""

from __future__ import annotations

import os
from pathlib import Path

SPARE = 256 << 20  # bytes, which whatever runs here needs for what it remembers


def fits(folder: Path, size: int = 0) -> bool:
    """Return whether so many bytes more leave enough of the disk of a folder free."""
    return size <= free(folder) - SPARE


def free(folder: Path) -> int:
    """Return the free bytes of the disk of a folder."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
