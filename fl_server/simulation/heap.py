"""What a process does with memory that is free again: keep it, for the next step of training asks for as much.

By default glibc gives large buffers back to the system, and a step then pays for fresh pages: five to fifteen per cent
of its time. A process that is started takes this from its environment, with large pages too; this one by a call.

Text is tokenized by one thread: others would keep memory of their own, and beside silos at work have no core to use.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

MOST = 1 << 32
TUNABLES = (
    f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={MOST}:glibc.malloc.trim_threshold={MOST}"
)
ONE_THREAD = "TOKENIZERS_PARALLELISM"
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def keep() -> None:
    """Have this process, and those that it starts, keep what they free; does nothing where there is no glibc."""
    os.environ.setdefault("GLIBC_TUNABLES", TUNABLES)
    os.environ.setdefault(ONE_THREAD, "false")
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
