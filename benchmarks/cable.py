"""A slow cable on one machine: two network namespaces, a veth pair between them, and ``tbf`` at both of its ends.

Linux, as root. What the cable does not take in at once waits for at most ``QUEUE_MS``, then it is dropped, so TCP finds
the speed as it would outside. Headers count: a full packet is 1,514 bytes, of which 1,448 are TCP's.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.link import ip

WIRE = "wire"  # what the device is called at each end
QUEUE_MS = 500
BURST = 1600  # bytes: one packet


class Cable:
    """A cable between ``here`` and ``there``: what to put before a command to run it at the one or the other end."""

    def __init__(self, bits_s: int) -> None:
        self.bits_s = bits_s
        self.names = tuple(f"bhasha-{os.getpid()}-{end}" for end in ("here", "there"))
        self.addresses = "10.213.8.1", "10.213.8.2"
        self.here, self.there = (("ip", "netns", "exec", name) for name in self.names)

    def lay(self) -> None:
        """Lay it. Both ends know each other's hardware address, so that neither asks for it and learns of a cut."""
        hardware = "02:00:00:00:00:01", "02:00:00:00:00:02"
        for name in self.names:
            ip("netns", "add", name)
        one, other = (("name", WIRE, "address", own) for own in hardware)
        ip("-n", self.names[0], "link", "add", *one, "type", "veth",
           "peer", *other, "netns", self.names[1])  # fmt: skip
        for end, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", WIRE)
            for device in ("lo", WIRE):
                ip("-n", name, "link", "set", device, "up")
            far = self.addresses[1 - end], "lladdr", hardware[1 - end]
            ip("-n", name, "neigh", "add", *far, "dev", WIRE, "nud", "permanent")
        self.heal()

    def heal(self) -> None:
        """Let so many bits a second through, each way."""
        self._queue("tbf", "rate", f"{self.bits_s}bit", "burst", str(BURST),
                    "latency", f"{QUEUE_MS}ms")  # fmt: skip

    def cut(self) -> None:
        """Swallow everything: nothing passes any more, and nobody is told."""
        self._queue("blackhole")

    def _queue(self, *words: str) -> None:
        for name in self.names:
            place = ("tc", "-n", name, "qdisc", "replace", "dev", WIRE, "root")
            subprocess.run([*place, *words], check=True)

    def remove(self) -> None:
        """Take it away."""
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def laid(bits_s: int) -> Iterator[Cable]:
    """Give a cable of so many bits a second each way, as long as the context is open."""
    if os.geteuid():
        raise SystemExit("a slow cable needs Linux and root")
    cable = Cable(bits_s)
    try:
        cable.lay()
        yield cable
    finally:
        cable.remove()
