"""A file that takes in what a line brings: written and hashed aside, in turn, while more of it is being decrypted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import FileIO
from typing import Any

from fl_client import memory

HELD = 4 << 20  # bytes that wait in memory at most, before the line has to
Digest = Any  # of hashlib, which names no type for it


class Sink:
    """Appends to a file as long as ``mine`` says so, and keeps ``digest`` up with it."""

    def __init__(self, stream: FileIO, digest: Digest, mine: Callable[[], bool]) -> None:
        self._stream, self._digest, self._mine = stream, digest, mine
        self._waiting: list[bytes] = []
        self._held = 0
        self._task: asyncio.Task[None] | None = None

    async def add(self, piece: bytes) -> None:
        """Take a piece; raises ``OSError`` where it, or one before it, could not be written."""
        self._waiting.append(piece)
        self._held += len(piece)
        if self._task is None or self._task.done():
            await self.end()
            self._task = asyncio.get_running_loop().create_task(self._empty())
        if self._held > HELD:
            await self.end()

    async def end(self) -> None:
        """Return once all pieces are written; raises ``OSError``."""
        if self._task is not None:
            await self._task

    async def _empty(self) -> None:
        while self._waiting:
            pieces, self._waiting, self._held = self._waiting, [], 0
            await asyncio.to_thread(self._write, pieces)

    def _write(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            if not self._mine():  # what waited would come after what a newer line has brought
                return
            memory.write(self._stream, piece)
            self._digest.update(piece)
