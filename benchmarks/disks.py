"""Bits that turn in saved files: ``python -m benchmarks.disks``.

A study is simulated. Its newest journal round, its record and silos' newest memories are then damaged one bit at a time
and read as a resumed study reads them, which must give what was written or the round before it.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.figures import Figure, at_most, report, write
from fl_client import memory, sealed
from fl_client.config import ConfigError, from_flat
from fl_server import journal, record
from fl_server.simulation import study as simulated
from strategies import adapter as algebra

FLIPS = 1000
SMALL = {
    "name": "flips", "rounds": 3, "model.rank": 2, "train.steps": 1, "train.batch_size": 1, "train.length": 16,
    "codec": "topk(0.05) | int8()", "alone.enabled": False, "evaluate.characters": 100,
    "simulation.languages": "as,ne", "simulation.silos": 2, "simulation.characters": 2000,
}  # fmt: skip
Read = Callable[[], Any]


def flipped() -> list[Figure]:
    """Turn a thousand bits, one at a time, and count what is taken for true and what has to be done again."""
    with tempfile.TemporaryDirectory(prefix="flips-") as folder:
        run = Path(folder) / "run"
        simulated.run(from_flat(SMALL), run, Console(quiet=True))
        places = saved(run)
        truth = {path: (read(), before()) for path, (read, before) in places.items()}
        draw, accepted, redone, refused = random.Random(7), 0, 0, 0
        for _ in range(FLIPS):
            path = draw.choice(sorted(places))
            whole = path.read_bytes()
            at, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            try:
                found = places[path][0]()
                redone += found == truth[path][1] != truth[path][0]
                accepted += found not in truth[path]
            except ConfigError:
                refused += 1
            path.write_bytes(whole)
    label = f"{FLIPS:,} bits turned in saved files, one at a time"
    return [
        at_most(f"{label}: read as neither the last round nor the one before", accepted, "", 0),
        at_most(f"{label}: studies that cannot go on", refused, "", 0),
        report(f"{label}: the others cost the last round, and no more", redone, "times"),
    ]


def saved(run: Path) -> dict[Path, tuple[Read, Read]]:
    """Return, for each saved file, what a resumed study reads of it, and what it may read where that is damaged."""
    held = journal.committed(run / "journal")
    found: dict[Path, tuple[Read, Read]] = {}
    for ending in ("json", "safetensors"):
        path = run / "journal" / f"round-{held[-1]:05d}.{ending}"
        found[path] = (lambda: _state(run), lambda: _state(run, held[-2]))
    for name in (record.FILE, record.COPY):
        found[run / name] = (lambda: record.lines(run), lambda: record.lines(run)[:-1])
    for home in sorted((run / "silos").iterdir()):
        last = memory.rounds(home)[-1]
        found[memory.path(home, last)] = (
            lambda home=home, last=last: _memory(memory.agreed(home, last + 1, lost=0)),
            lambda home=home, last=last: _memory(_private(memory.agreed(home, last, lost=0))),
        )
    return found


def _state(run: Path, number: int | None = None) -> Any:
    state = journal.recall(run / "journal", number)
    return (
        None
        if state is None
        else (state.round, {g: algebra.sha256(a) for g, a in state.adapter.items()})
    )


def _private(held: algebra.Adapter) -> algebra.Adapter:
    return {n: x for n, x in held.items() if n != "residual" and not n.startswith("local/")}


def _memory(held: algebra.Adapter) -> bytes:
    return sealed.seal(held)


if __name__ == "__main__":
    write("disks", flipped(), "python -m benchmarks.disks")
