"""How fast a rank trains: how much of its time goes into work and how much into talk, and what its GPU does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fl_client import ranks

SAMPLE_S = 1.0  # how often a GPU is asked how busy it is


class Gauge:
    """The time of one ``fit`` on one rank, from when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._began = time.monotonic()
        self._talk, self._aside = 0.0, 0.0
        self._marks: list[
            tuple[Any, Any]
        ] = []  # on a GPU talk runs in its stream and is timed there
        self._busy: list[float] = []
        self._sampled = self._began
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Count what happens inside as communication: waiting for slower ranks is part of it."""
        if self._cuda:
            began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            began.record()
            yield
            ended.record()
            self._marks.append((began, ended))
            return
        now = time.monotonic()
        yield
        self._talk += time.monotonic() - now

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Count what happens inside, such as writing a checkpoint, as neither work nor talk."""
        now = time.monotonic()
        yield
        self._aside += time.monotonic() - now

    def sample(self) -> None:
        """Ask the GPU how busy it is, at most once a second; needs NVIDIA's management library, else nothing."""
        if not self._cuda or time.monotonic() - self._sampled < SAMPLE_S:
            return
        self._sampled = time.monotonic()
        try:
            self._busy.append(torch.cuda.utilization() / 100)
        except Exception:  # no nvidia-ml-py, or a driver that does not say, by errors of its own
            self._sampled = float("inf")

    def numbers(self, tokens: int) -> dict[str, float]:
        """Return ``NAME/RANK`` of every rank: ``efficiency``, ``tokens_s``, ``compute_s``, ``communication_s``.

        On GPUs also ``gpu_memory_bytes`` (the peak) and, where the driver says it, ``gpu_utilisation`` (0 to 1).
        """
        if self._cuda:
            torch.cuda.synchronize()
            self._talk += sum(began.elapsed_time(ended) for began, ended in self._marks) / 1000
        wall = max(time.monotonic() - self._began - self._aside, 1e-9)
        own = {
            "efficiency": max(0.0, 1 - self._talk / wall),
            "tokens_s": tokens / wall,
            "compute_s": wall - self._talk,
            "communication_s": self._talk,
        }
        if self._cuda:
            own["gpu_memory_bytes"] = float(torch.cuda.max_memory_allocated())
            busy = sum(self._busy) / len(self._busy) if self._busy else float("nan")
            own["gpu_utilisation"] = busy
        rows = ranks.gathered(list(own.values()))
        pairs = {f"{n}/{r}": v for r, row in enumerate(rows) for n, v in zip(own, row, strict=True)}
        return {name: value for name, value in pairs.items() if value == value}  # NaN: not known


@contextmanager
def memory() -> Iterator[None]:
    """Raise ``MemoryError`` where Torch runs out of a GPU's or the machine's memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error).partition("\n")[0]) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError(str(error).partition("\n")[0]) from error
