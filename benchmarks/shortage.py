"""A hub whose disk is full in the middle of a round, and free half a minute later: what it accepts and does again.

The hub's folder lies on a filesystem of its own. That is filled after every look at how much is free: while updates
come in, when the last of them is in the rounds' hands so that nothing can be committed, and the same with a megabyte
left, so that the commit begins and breaks off. Then all that was kept is read again, and the adapter compared with that
of the same study undisturbed.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from benchmarks import volume
from benchmarks.federation import Federation, edit, free_address
from benchmarks.figures import Figure, at_most, report, true
from benchmarks.line import Line
from benchmarks.stage import NOTHING, said, times
from benchmarks.toll import TRAINED
from benchmarks.volume import Volume
from fl_client import parcels, stock
from fl_client.config import from_flat
from fl_client.parcels import Parcel
from fl_server import journal, record

DISK, FULL_S, LINE_BYTES_S = 3 << 29, 25.0, 4e6
WAIT_S = 1200.0  # for anything, on a busy machine
# 21.7 MB of each of two silos, which take eleven seconds over one line. Round 1 and the last are left in peace.
STUDY = {"model.rank": 400, "model.targets": "all-linear", "codec": "float32()", "rounds": 5}
MOMENTS = {2: "while updates come in", 3: "before the commit", 4: "in the commit, with 1 MiB left"}


def full() -> list[Figure]:
    """Fill the hub's disk at each moment, free it again, and look at what is there in the end."""
    with tempfile.TemporaryDirectory(prefix="bhasha-") as folder:
        place = Path(folder)
        with volume.mounted(place / "hub-machine", DISK) as disk:
            port = int(free_address().rpartition(":")[2])
            line = Line(port, LINE_BYTES_S)
            made = Federation(place, from_flat(NOTHING | STUDY), f"127.0.0.1:{line.port}")
            try:
                made.begin(f"127.0.0.1:{port}")
                for name in made.silos:
                    made.join(name, threads="1")
                    edit(made.silos[name].folder / "silo" / "policy.toml", max_rank="1024")
                made.run()
                back = {number: _filled(made, disk, number) for number in MOMENTS}
                ended = made.finished(WAIT_S)["adapter_sha256"]
                return _figures(made, back, ended)
            finally:
                made.end()
                line.close()


def _filled(made: Federation, disk: Volume, number: int) -> float:
    """Fill the disk in a round and free it; return the seconds from then to the round's commit."""
    _soon(made, lambda: _committed(made, number - 1), f"round {number - 1}")
    before = len(_brought(made))
    if number == 2:
        _soon(made, lambda: _coming(made) > 10e6, "10 MB of the updates")
        disk.fill()
    else:
        _soon(made, lambda: len(_brought(made)) == before + len(made.silos), "the updates")
        disk.fill(left=(number - 3) << 20)
    time.sleep(FULL_S)
    if _committed(made, number):
        raise RuntimeError(f"round {number} was committed before the disk was full")
    disk.empty()
    freed = time.monotonic()
    _soon(made, lambda: _committed(made, number), f"round {number}")
    return time.monotonic() - freed


def _soon(made: Federation, true: Callable[[], bool], what: str) -> None:
    """Wait for what lasts for moments only."""
    ends = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > ends:
            raise AssertionError(f"waited in vain for {what}\n{made.logs()}")
        time.sleep(0.01)


def _committed(made: Federation, number: int) -> bool:
    return bool(times(said(made), f"round {number} is committed"))


def _brought(made: Federation) -> list[float]:
    return times(said(made), r"node \d+ brought")


def _coming(made: Federation) -> int:
    return sum(map(stock.size, (made.hub.folder / "hub" / "spool").glob("*/parcels")))


def _figures(made: Federation, back: dict[int, float], ended: str) -> list[Figure]:
    made.hub.type("fl-sim run study.toml --cohort 1 --out undisturbed", wait_s=WAIT_S)
    alone = json.loads((made.hub.folder / "undisturbed" / "report.json").read_text())
    again = sum(max(0, times - 1) for times in _trainings(made).values())
    runs = (made.hub.folder / "hub" / "logs" / "runner.log").read_text().count("as Flower's run")
    label = f"hub's disk full for {FULL_S:g} s in each of {len(MOMENTS)} rounds"
    return [
        at_most(f"{label}: files taken for whole that are not", _bad(made), "", 0),
        at_most(f"{label}: rounds done again, of those", runs - 1, "", len(MOMENTS)),
        at_most(f"{label}: trainings done again", again, "", 0),
        true(f"{label}: the adapter is that of the study undisturbed", ended == alone["adapter_sha256"]),
        *(
            report(f"full {MOMENTS[number]}: from free to the round's commit", seconds, "s")
            for number, seconds in back.items()
        ),
    ]  # fmt: skip


def _bad(made: Federation) -> int:
    """Return how many of the hub's files are not what they are named or noted to be."""
    hub = made.hub.folder / "hub"
    run = hub / "runs" / made.study.name
    rounds = journal.committed(run / "journal")
    named = [*hub.glob("spool/*/parcels/*.safetensors"), *hub.glob("parcels/*.safetensors")]
    found = [journal.recall(run / "journal", number) is not None for number in rounds]
    found += [parcels.whole(file, Parcel(file.stem, file.stat().st_size)) for file in named]
    found.append(
        [line["round"] for line in record.lines(run)] == list(range(made.study.rounds + 1))
    )
    return found.count(False)


def _trainings(made: Federation) -> Counter[tuple[str, str]]:
    """Return how often each silo trained each round."""
    logs = {
        name: (place.folder / "silo" / "logs" / "workers.log").read_text()
        for name, place in made.silos.items()
    }
    return Counter((name, number) for name, log in logs.items() for number in TRAINED.findall(log))
