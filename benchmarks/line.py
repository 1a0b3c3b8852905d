"""A line between silos and hub that can be slow and can be cut: a TCP proxy that counts what goes up."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress


class Line:
    """Forwards connections from a port of loopback to another one; ``up`` counts the bytes towards the hub."""

    def __init__(self, to: int, bytes_s: float = 0.0) -> None:
        self.to, self.bytes_s = to, bytes_s
        self.up = 0
        self.port = 0
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._free = 0.0
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        self._loop.run_until_complete(serve())
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
            self._open.add(back)
            await asyncio.gather(self._pass(reader, back, True), self._pass(there, writer, False))

    async def _pass(self, one: asyncio.StreamReader, other: asyncio.StreamWriter, up: bool) -> None:
        with suppress(OSError):
            while part := await one.read(1 << 16):
                while self._cut:  # a black hole: nothing passes and nobody is told
                    await asyncio.sleep(0.05)
                if up:
                    self.up += len(part)
                    await self._slowly(len(part))
                other.write(part)
                await other.drain()
        with suppress(OSError):
            other.close()

    async def _slowly(self, size: int) -> None:
        if self.bytes_s:
            now = time.monotonic()
            self._free = max(self._free, now) + size / self.bytes_s
            await asyncio.sleep(self._free - now)

    def cut(self) -> None:
        """Let nothing through any more."""
        self._cut = True

    def heal(self) -> None:
        """Close what was open, as a line that comes back does, and let everything through again."""

        def close() -> None:
            for writer in self._open:
                writer.transport.abort()
            self._open.clear()
            self._cut = False

        self._loop.call_soon_threadsafe(close)

    def close(self) -> None:
        """End the line."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
