"""A bell that counts: whoever waits says which ring was the last one heard, so no ring is lost between two waits."""

from __future__ import annotations

import asyncio


class Bell:
    """Rings for everyone who waits. ``count`` is the number of rings so far."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait."""
        self.count += 1
        heard, self._next = self._next, asyncio.Event()
        heard.set()

    async def wait(self, since: int, seconds: float) -> int:
        """Return the count as soon as it is not ``since``, or after so many seconds as it is."""
        if self.count == since and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._next.wait()
            except TimeoutError:
                pass
        return self.count
