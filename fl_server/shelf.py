"""Updates that wait for one another, in a file that has no name: they take disk and, however many, no memory."""

from __future__ import annotations

import mmap
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import IO

import numpy as np

from strategies import adapter as algebra
from strategies.adapter import Layout
from strategies.strategy import Weighted


class Shelf:
    """``put`` updates as they come, then ``take`` them; the file is gone when nobody looks at them any more."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._file: IO[bytes] | None = None
        self._held: list[tuple[str, float, Layout, int]] = []

    def __len__(self) -> int:
        """Return how many updates lie here."""
        return len(self._held)

    def put(self, one: Weighted) -> None:
        """Write an update behind the others."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        self._held.append((one.silo, one.weight, algebra.layout(one.update), self._file.tell()))
        for name in sorted(one.update):
            self._file.write(np.ascontiguousarray(one.update[name], np.float32).data)

    def take(self) -> list[Weighted]:
        """Return all updates by silo, once; their numbers are views of the file, and cannot be changed."""
        if self._file is None:
            return []
        with self._file:
            self._file.flush()
            mapped = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        held = sorted(self._held, key=lambda entry: entry[0])
        return [
            Weighted(silo, weight, _view(mapped, at, shapes)) for silo, weight, shapes, at in held
        ]


def shelved(updates: Iterable[Weighted], folder: Path | None = None) -> list[Weighted]:
    """Return these updates by silo, as they lie in a file."""
    shelf = Shelf(folder)
    for one in updates:
        shelf.put(one)
    return shelf.take()


def _view(mapped: mmap.mmap, at: int, shapes: Layout) -> algebra.Adapter:
    return algebra.unflatten(np.frombuffer(mapped, np.float32, algebra.size(shapes), at), shapes)
