"""The ranks of one silo's worker group: who this process is among them, and what they tell each other.

Two groups of connections: one for control (gloo; it may stay silent for days between rounds) and one for data (nccl
on GPUs, else gloo). Where nothing has been joined there is one rank of one, and nothing here talks to anyone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.rendezvous import rendezvous

SILENT = timedelta(days=30)  # between two jobs nobody says anything
BUSY = timedelta(minutes=30)  # the longest that one rank may wait for another inside a step
STORE = "BHASHA_STORE"  # the file in which the ranks of one machine find each other
HEAD = "BHASHA_HEAD"  # set on the machine whose first rank serves the silo


class Joined(NamedTuple):
    """The group that carries gradients, and the store in which ranks leave each other notes."""

    data: dist.ProcessGroup
    notes: Any


_joined: list[Joined] = []
_leaving = threading.Event()


def join() -> None:
    """Meet the other ranks that torch elastic started. The head's first rank becomes rank 0; one alone meets nobody."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return
    number = int(os.environ["RANK"])
    if STORE in os.environ:
        store: Any = dist.FileStore(os.environ[STORE], size)  # type: ignore[attr-defined]
    else:
        store, _, _ = next(rendezvous("env://", number, size))
    if HEAD in os.environ and os.environ.get("LOCAL_RANK") == "0":
        store.set("head", str(number))
    number = (number - int(store.get("head"))) % size
    dist.init_process_group("gloo", store=store, rank=number, world_size=size, timeout=SILENT)
    kind = "nccl" if torch.cuda.is_available() else "gloo"
    data = dist.new_group(backend=kind, timeout=BUSY)
    notes = dist.PrefixStore("note", store)  # type: ignore[attr-defined]
    _joined.append(Joined(data, notes))


def part() -> None:
    """Close all connections to the other ranks."""
    if _joined:
        dist.destroy_process_group()
        _joined.clear()


def world() -> int:
    """Return how many ranks there are."""
    return dist.get_world_size() if _joined else 1


def rank() -> int:
    """Return the number of this rank, from 0."""
    return dist.get_rank() if _joined else 0


def first() -> bool:
    """Return whether this is rank 0, the one that answers and writes files."""
    return rank() == 0


def data() -> dist.ProcessGroup:
    """Return the group that carries gradients; there must be several ranks."""
    return _joined[0].data


def notes() -> Any:
    """Return the store in which ranks leave each other notes; there must be several ranks."""
    return _joined[0].notes


def leave() -> None:
    """Ask this rank's training to leave at the next step; the others follow."""
    _leaving.set()


def leaving() -> bool:
    """Return whether this rank was asked to leave."""
    return _leaving.is_set()


def share(rows: NDArray[Any]) -> NDArray[Any]:
    """Return this rank's part of a global batch: every so many-th row, so that shares differ by one at most."""
    return rows[rank() :: world()]


def add(tensors: list[torch.Tensor]) -> None:
    """Replace tensors by their sums over all ranks, in one message."""
    if world() == 1:
        return
    flat = torch.cat([x.reshape(-1) for x in tensors])
    dist.all_reduce(flat, group=data())
    sizes = [x.numel() for x in tensors]
    for x, summed in zip(tensors, torch.split(flat, sizes), strict=True):
        x.copy_(summed.view_as(x))


def total(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of a small tensor over all ranks, on the CPU."""
    held = values.detach().cpu().clone()
    if world() > 1:
        dist.all_reduce(held)
    return held


def gathered(values: list[float]) -> list[list[float]]:
    """Return the numbers of every rank; each gives as many."""
    own = torch.tensor(values, dtype=torch.float64)
    if world() == 1:
        return [values]
    rows = [torch.empty_like(own) for _ in range(world())]
    dist.all_gather(rows, own)
    return [row.tolist() for row in rows]


def told(make: Callable[[], float], everyone: bool = False) -> float:
    """Return rank 0's number on all ranks; the others make it too only where ``everyone`` is needed for it."""
    made = make() if first() or everyone else 0.0
    if world() == 1:
        return made
    held = torch.tensor([made], dtype=torch.float64)
    dist.broadcast(held, 0)
    return float(held[0])


def spread(content: bytes) -> bytes:
    """Return rank 0's bytes on all ranks."""
    if world() == 1:
        return content
    size = torch.tensor([len(content)])
    dist.broadcast(size, 0)
    held = torch.empty(int(size[0]), dtype=torch.uint8)
    if first():
        held.numpy()[:] = np.frombuffer(content, np.uint8)
    if len(held):
        dist.broadcast(held, 0)
    return held.numpy().tobytes()


class Ballot:
    """A vote that runs beside the work: every flag that any rank raised is raised on all."""

    def __init__(self, flags: list[bool]) -> None:
        self._flags = torch.tensor(flags, dtype=torch.int32)
        self._pending: Any = None
        if world() > 1:
            self._pending = dist.all_reduce(self._flags, dist.ReduceOp.MAX, async_op=True)

    def result(self) -> list[bool]:
        """Return the flags once all ranks have voted."""
        if self._pending is not None:
            self._pending.wait()
        return [bool(flag) for flag in self._flags.tolist()]
