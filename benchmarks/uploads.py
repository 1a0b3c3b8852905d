"""An update of 12 MB over a slow cable that is cut for ten minutes: how long it takes, beside the line's own time.

The hub and one silo are at one end, the silo that is measured at the other. The line's own time is the update's bits
over the speed, so headers, TLS, heartbeats, what was in flight at the cut and how late the silo sees that it is over
count against us. The update's way begins with its first byte, in the silo's record of what leaves, and ends when the
hub's rounds have it in their hands. The next adapter comes down the same cable.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import NamedTuple

from benchmarks import cable as cables
from benchmarks.cable import Cable
from benchmarks.federation import Federation, edit
from benchmarks.figures import Figure, at_most, report, true
from benchmarks.stage import NOTHING, running, said, times
from fl_client import audit, parcels, stock
from fl_client.config import from_flat
from fl_client.gateway.trip import PATH

CUT_S = 600.0
AFTER = 1 / 3  # of the update is through when the cut begins
FAR, PORT = "ne-1", 18443
SIZE = 12e6  # bytes of an update: rank 221 in float32
STUDY = {
    "model.rank": 221, "model.targets": "all-linear", "codec": "float32()", "broadcast": "bfloat16()",
    "rounds": 2,  # the second one for its adapter alone
}  # fmt: skip


class Way(NamedTuple):
    """An update's way: its bytes, when its first one left and when the hub had all, in how many goes."""

    size: int
    began: float
    ended: float
    goes: int


def over(bits_s: int, cut_s: float = CUT_S) -> list[Figure]:
    """Measure an update's way over a cable of so many bits a second that is cut for so long."""
    with cables.laid(bits_s) as cable:
        within = {"hub": cable.here, "as-1": cable.here, FAR: cable.there}
        study, address = from_flat(NOTHING | STUDY), f"{cable.addresses[0]}:{PORT}"
        with running(study, address, within=within) as made:
            for place in made.silos.values():
                edit(place.folder / "silo" / "policy.toml", max_rank="1024")
            made.run()
            healed_s = _cut(made, cable, cut_s)
            way, back_s, down = _way(made, bits_s), *_next(made, bits_s)
    line_s = 8 * way.size / bits_s
    label = f"update over {bits_s // 1000} kbit/s each way (tbf), cut for {cut_s:g} s"
    return [
        true(f"{label}: the round finishes", True),
        report(f"{label}: size of the update", way.size / 1e6, "MB"),
        report(f"{label}: the line's own time", line_s, "s"),
        at_most(f"{label}: the cut taken off", (way.ended - way.began - cut_s) / line_s,
                "line times", 1.15),
        report(f"{label}: from the end of the cut to the next byte at the hub", healed_s, "s"),
        report(f"{label}: goes", way.goes, ""),
        report(f"{label}: the next adapter ({down / 1e6:.1f} MB) is down after",
               back_s * bits_s / 8 / down, "line times"),
    ]  # fmt: skip


def _cut(made: Federation, cable: Cable, seconds: float) -> float:
    """Cut the cable in mid-update; return how long after the cut the update went on."""
    starts_s = 600 + 8 * SIZE / cable.bits_s
    made.until(lambda: _arrived(made) > AFTER * SIZE, "a part of the update", starts_s)
    cable.cut()
    time.sleep(seconds)
    held = _arrived(made)
    cable.heal()
    healed = time.monotonic()
    made.until(lambda: _arrived(made) > held, "the update to go on", 300)
    return time.monotonic() - healed


def _arrived(made: Federation) -> int:
    """Return how much of the update is at the hub."""
    return stock.size(made.hub.folder / "hub" / "spool" / FAR / "parcels")


def _way(made: Federation, bits_s: int) -> Way:
    """Return the update's way once the round is committed."""
    made.until(lambda: _committed(made), "the round", 300 + 2 * 8 * SIZE / bits_s)
    ended = max(at for at in times(said(made), r"node \d+ brought") if at < _committed(made)[0])
    gone = [
        e for e in audit.read(made.silos[FAR].folder / "silo") if e.kind == PATH and e.bytes > 0
    ]
    return Way(gone[0].bytes, datetime.fromisoformat(gone[0].time).timestamp(), ended, len(gone))


def _next(made: Federation, bits_s: int) -> tuple[float, int]:
    """Return how long after a round's end its adapter lay in the silo's inbox, and the bytes of that."""
    inbox = made.silos[FAR].folder / "silo" / parcels.INBOX
    wait_s = 300 + 2 * 8 * SIZE / bits_s
    made.until(lambda: list(inbox.glob("*.safetensors")), "the adapter", wait_s)
    (adapter,) = inbox.glob("*.safetensors")
    return adapter.stat().st_mtime - _committed(made)[0], adapter.stat().st_size


def _committed(made: Federation) -> list[float]:
    return times(said(made), "round 1 is committed")
