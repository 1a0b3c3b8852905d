"""A slow link on one machine: two network namespaces joined by a wire that delays every packet. Linux, as root.

Each end is a TUN device; what goes in at one comes out at the other so many seconds later, whatever its size.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import queue
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

INTERFACE = "slow0"
NAMES = ("bhasha-left", "bhasha-right")
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
LARGEST = 9000  # bytes of a packet


@contextmanager
def slow(delay_s: float) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield what to put before a command to run it at the left and at the right end of the link."""
    if os.geteuid() or not os.path.exists("/dev/net/tun"):  # noqa: PTH110
        raise SystemExit("a slow link needs Linux, root and /dev/net/tun")
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    ends = []
    try:
        for number, name in enumerate(NAMES):
            ip("netns", "add", name)
            ends.append(_end(home, name))
            address = ("addr", "add", f"10.213.7.{number + 1}/24", "dev", INTERFACE)
            for words in (
                address,
                ("link", "set", INTERFACE, "mtu", str(LARGEST), "up"),
                ("link", "set", "lo", "up"),
            ):
                ip("-n", name, *words)
        for given, taken in (ends, ends[::-1]):
            _wire(given, taken, delay_s)
        yield tuple(("ip", "netns", "exec", name) for name in NAMES)
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        for end in ends:
            os.close(end)
        os.close(home)


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True)


def _end(home: int, name: str) -> int:
    """Return the device of a namespace; this thread goes there and back."""
    libc = ctypes.CDLL(None, use_errno=True)
    there = os.open(f"/var/run/netns/{name}", os.O_RDONLY)
    try:
        if libc.setns(there, 0):
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", INTERFACE.encode(), IFF_TUN | IFF_NO_PI))
    finally:
        libc.setns(home, 0)
        os.close(there)
    return device


def _wire(given: int, taken: int, delay_s: float) -> None:
    """Carry packets one way, in order."""
    packets: queue.Queue[tuple[float, bytes]] = queue.Queue()

    def take() -> None:
        while True:
            try:
                packets.put((time.monotonic() + delay_s, os.read(given, LARGEST + 100)))
            except OSError:
                return

    def give() -> None:
        while True:
            due, packet = packets.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                os.write(taken, packet)
            except OSError:
                return

    for carry in (take, give):
        threading.Thread(target=carry, daemon=True).start()
