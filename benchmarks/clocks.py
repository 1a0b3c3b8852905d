"""A study in which one silo's clock is a day ahead and another's a day behind: are they told, do rounds complete?

Each silo's programs, from joining on, load ``clock.c`` before all else. So Python, Flower and OpenSSL, which looks at
the hub's certificate, see the wrong day. What the kernel itself stamps, such as the times of files, has the right one.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.federation import Federation, Place, free_address
from benchmarks.figures import Figure, at_most, report, true
from benchmarks.stage import NOTHING, said
from fl_client.config import from_flat

SOURCE = Path(__file__).with_name("clock.c")
DAY = 86_400
AHEAD = {"as-1": DAY, "ne-1": -DAY}
WORDS = "this machine's clock is"
ROUNDS = 2


def off() -> list[Figure]:
    """Run a study of two silos whose clocks are off, beside the same one simulated with a clock that is right."""
    with tempfile.TemporaryDirectory(prefix="bhasha-") as folder:
        library = Path(folder) / "clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
        within = {name: _wrong(library, seconds) for name, seconds in AHEAD.items()}
        study = from_flat(NOTHING | {"rounds": ROUNDS})
        made = Federation(Path(folder), study, free_address(), within)
        try:
            made.begin()
            told = {name: _told(made, name) for name in made.silos}
            made.run()
            ended = made.finished()["adapter_sha256"]
            return _figures(made, told, ended)
        finally:
            made.end()


def _wrong(library: Path, ahead_s: int) -> tuple[str, ...]:
    return "env", f"LD_PRELOAD={library}", f"BHASHA_AHEAD_S={ahead_s}"


def _told(made: Federation, name: str) -> tuple[float, str]:
    """Start a silo; return after how many seconds it said in its terminal or logs that its clock is off, and how."""
    place, seen = made.silos[name], list[str]()

    def found() -> bool:
        seen.extend(line for line in _lines(place) if WORDS in line)
        return bool(seen)

    made.join(name, threads="1")
    began = time.monotonic()  # the last that joining does is to start it
    while not found() and time.monotonic() - began < 120:
        time.sleep(0.1)
    return time.monotonic() - began, seen[0] if seen else "nothing"


def _lines(place: Place) -> list[str]:
    logs = [place.folder / "fl-client.out", place.folder / "silo" / "logs" / "gateway.log"]
    return [line for log in logs if log.exists() for line in log.read_text().splitlines()]


def _figures(made: Federation, told: dict[str, tuple[float, str]], ended: str) -> list[Figure]:
    made.hub.type("fl-sim run study.toml --cohort 1 --out undisturbed")
    alone = json.loads((made.hub.folder / "undisturbed" / "report.json").read_text())
    again = [
        line for place in made.silos.values() for line in _lines(place) if "starts again" in line
    ]
    figures = []
    for name, (seconds, words) in told.items():
        label = f"a silo's clock a day {'ahead' if AHEAD[name] > 0 else 'behind'}"
        figures += [
            at_most(f"{label}: from its start to a plain message", seconds, "s", 10),
            report(f"{label}: the message", words, ""),
        ]
    label = "one silo's clock a day ahead, the other's a day behind"
    return [
        *figures,
        true(f"{label}: all rounds complete", f"round {ROUNDS} is committed" in said(made)),
        true(
            f"{label}: the adapter is that of clocks that agree", ended == alone["adapter_sha256"]
        ),
        at_most(f"{label}: programs that ended and were started again", len(again), "", 0),
    ]
