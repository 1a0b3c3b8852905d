"""What this machine is, as plain data: versions, processors, memory, disk. No text, no paths, no names of people."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
LOOK_S = 300.0  # on a cold disk Torch alone takes a minute to start
# In a process of its own: Torch starts slowly, and what looks at a GPU keeps some of its memory.
LOOK = """
import json, torch
seen = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in seen]))
"""
MOST_GPUS, LONGEST = 64, 40


SHORT = {"avx512_bf16", "amx_bf16", "bf16"}  # as Linux calls it on x86 and on Arm


class Gpu(NamedTuple):
    """One GPU as Torch sees it."""

    name: str
    memory_bytes: int


class Machine(NamedTuple):
    """What is known of this machine; a version is '' where the package is not installed."""

    version: str
    flower: str
    torch: str
    python: str
    cpus: int
    memory_bytes: int
    free_bytes: int  # of memory, now
    disk_free_bytes: int
    gpus: tuple[Gpu, ...] = ()


@cache
def multiplies_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 itself; others take up to ten times as long by it."""
    try:
        told = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = [
        line.partition(":")[2].split() for line in told if line.startswith(("flags", "Features"))
    ]
    return bool(flags) and all(SHORT & set(each) for each in flags)


def look(folder: Path, gpus: bool = False) -> Machine:
    """Return what this machine is, with the disk under ``folder``; GPUs only where asked, as that starts Torch."""
    total, available = memory()
    return Machine(
        version=installed("bhasha-fl"),
        flower=installed("flwr"),
        torch=installed("torch"),
        python=platform.python_version(),
        cpus=cpus(),
        memory_bytes=total,
        free_bytes=min(available, total),
        disk_free_bytes=shutil.disk_usage(folder).free,
        gpus=gpus_seen() if gpus else (),
    )


def installed(package: str) -> str:
    """Return the version of an installed package, '' where there is none; nothing is imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def cpus() -> int:
    """Return how many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> tuple[int, int]:
    """Return the bytes of memory that this process may use, and how many are free in this machine now."""
    try:
        import psutil  # type: ignore[import-untyped]
    except (
        ImportError
    ):  # it comes with the other packages of a silo, which `doctor` then finds missing
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return limited(total), total
    held = psutil.virtual_memory()
    return limited(held.total), held.available


def limited(total: int) -> int:
    """Return what this process's container allows of so many bytes."""
    for path in CGROUPS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            return min(total, int(text))
    return total


def gpus_seen() -> tuple[Gpu, ...]:
    """Return the GPUs that Torch sees, none where there is no Torch or it does not start."""
    if not installed("torch"):
        return ()
    try:
        ran = subprocess.run(
            [sys.executable, "-c", LOOK],
            capture_output=True,
            text=True,
            check=True,
            timeout=LOOK_S,
            stdin=subprocess.DEVNULL,
        )
        rows = json.loads(ran.stdout.strip().splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return ()
    return tuple(Gpu(str(row["name"])[:LONGEST], int(row["memory_bytes"])) for row in rows)[
        :MOST_GPUS
    ]


def greeting(
    machine: Machine, uplink_bytes_s: float = 0, languages: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the hub is told of a machine: small numbers and short names. A GPU's memory is the smallest one's.

    ``languages`` gives ``rows`` and ``bytes`` by language.
    """
    known = {
        "version": machine.version,
        "flower": machine.flower,
        "languages": dict(languages or {}),
        "gpus": len(machine.gpus),
        "gpu_memory_bytes": min((gpu.memory_bytes for gpu in machine.gpus), default=0),
        "cpus": machine.cpus,
        "memory_bytes": machine.memory_bytes,
        "uplink_bytes_s": uplink_bytes_s,
    }
    return {name: value for name, value in known.items() if value}
