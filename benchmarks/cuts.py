"""An update over a line that is cut, or whose hub or silo is killed, in the middle of it: what is sent again."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.federation import Federation, edit, free_address
from benchmarks.figures import Figure, at_least, at_most, report, true
from benchmarks.line import Line
from benchmarks.stage import NOTHING, kill, running
from fl_client.config import from_flat
from fl_server import progress, record


def cut(seconds: float) -> list[Figure]:
    """Cut the line in the middle of an upload, kill the silo gateway meanwhile, and count what is sent again."""

    def fault(made: Federation, line: Line) -> None:
        line.cut()
        time.sleep(seconds / 2)
        kill("fl_client.gateway", str(made.silos["as-1"].folder))
        time.sleep(seconds / 2)
        line.heal()

    return _upload(f"line cut for {seconds:g} s in an upload, silo gateway killed", fault)


def hub_killed() -> list[Figure]:
    """Kill the hub gateway in the middle of an upload, and count what is sent again."""
    return _upload(
        "hub gateway killed in an upload",
        lambda made, line: kill("fl_server.gateway", str(made.hub.folder)),
    )


def silo_out() -> list[Figure]:
    """Kill all of a silo in the middle of an upload, start it again as systemd would, count what is sent again."""
    killed = []

    def fault(made: Federation, line: Line) -> None:
        silo = made.silos["as-1"]
        killed.append(silo.out())
        silo.start("fl-client start")

    label = "all of a silo killed in an upload"
    figures = _upload(label, fault)
    return [*figures, at_least(f"{label}: processes killed", killed[0], "", 3)]


def _upload(label: str, fault: Callable[[Federation, Line], None]) -> list[Figure]:
    port = int(free_address().rpartition(":")[2])
    line = Line(port, 4e6)
    large = {"model.rank": 400, "model.targets": "all-linear", "codec": "float32()", "rounds": 1}
    study = from_flat(NOTHING | large | {"simulation.languages": "as", "simulation.silos": 1})
    with running(study, f"127.0.0.1:{line.port}", f"127.0.0.1:{port}") as made:
        edit(made.silos["as-1"].folder / "silo" / "policy.toml", max_rank="1024")
        made.run()
        queue = made.hub.folder / "hub" / "queue" / study.name
        made.until(lambda: progress.read(queue).get("asked_for") == "train", "training")
        before = line.up
        made.until(lambda: line.up - before > 15e6, "15 MB of the update")
        fault(made, line)
        healed = time.monotonic()
        rounds = made.hub.folder / "hub" / "runs" / study.name
        made.until(lambda: len(record.lines(rounds)) > 1, "the round", 300)
        sent, took = line.up - before, time.monotonic() - healed
        size = record.lines(rounds)[1]["silos"]["as-1"]["up"]
        made.finished()
    line.close()
    return [
        true(f"{label}: the round finishes", True),
        report(f"{label}: seconds to the round's end after healing", took, "s"),
        report(f"{label}: size of the update", size / 1e6, "MB"),
        at_most(f"{label}: sent again", 100 * (sent / size - 1), "%", 5),
    ]
