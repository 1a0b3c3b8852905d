"""One silo ten times slower than seven others: how much sooner a buffered study is as good as one that waits for all.

Silos train for real, on ``builtin:tiny``; when they answer is virtual: a round takes the seven one unit of time, the
slow one ten, and lines take none. The buffered study counts twice as many updates, which it has in a quarter of the
time. What commits reached is scored beside the run, on all silos' validation text, and takes no time either.

Silos merge within their language, as they do by default.

    python -m benchmarks.schedules
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from flwr.app import Context, RecordDict

from benchmarks.figures import Figure, at_least, report, write
from fl_client import messages, metrics, site
from fl_client.app import app as client
from fl_client.config import Study, flat, from_flat
from fl_server import broadcast, config, record, rounds
from fl_server import run as runs
from fl_server.run import Run
from fl_server.simulation import grid as local
from fl_server.simulation import study as simulated
from fl_server.simulation.profiles import Place, checked
from fl_server.simulation.standins import Bill
from fl_server.simulation.virtual import VirtualGrid

SILOS, SLOWER, ROUNDS, SIZE = 8, 10, 5, 4
COMMITS = 2 * SILOS * ROUNDS // SIZE
SCORED = 2  # every second commit
UNIT_S = 3600.0  # in which a fast silo trains
GOAL = 3.0  # times sooner
LINE = {"uplink_bytes_s": 1e9, "downlink_bytes_s": 1e9, "latency_s": 0, "cpus": 1}
STUDY = {
    "alone.enabled": False,
    "evaluate.every": SILOS * ROUNDS,
    "evaluate.characters": 500,
    "simulation.silos": SILOS,
    "train.steps": 5,
    "train.dtype": "float32",
}


class Point(NamedTuple):
    """What a commit reached: the time, the mean of bits per byte over silos, and that of the slow silo."""

    at: float
    mean: float
    slow: float


class Played(NamedTuple):
    """A study that was played: its commits, and how many updates of the slow silo counted."""

    points: list[Point]
    slow: int


def main() -> None:
    """Play both studies, print and write the figures."""
    local.identify()
    simulated.quiet()
    waits = f"sync(deadline_s={1e6 * UNIT_S})"
    late = 2 * SLOWER * SILOS // SIZE  # so that the slow silo counts
    goes_on = f"buffered(size={SIZE}, max_staleness={late}, deadline_s={1e6 * UNIT_S})"
    sync, buffered = played(waits, ROUNDS, 1), played(goes_on, COMMITS, SCORED)
    found = figures(sync, buffered)
    for figure in found:
        print(figure)
    write("schedules", found, "python -m benchmarks.schedules")


def figures(sync: Played, buffered: Played) -> list[Figure]:
    """Return the figures: the quality is the last of the study that waits."""
    wanted = sync.points[-1].mean
    first, second = reached(sync, wanted), reached(buffered, wanted)
    said = f"one silo of {SILOS} {SLOWER}x slower, buffered(size={SIZE})"
    return [
        at_least(f"{said}: sooner as good as sync of all", first / second, "x", GOAL),
        report(f"{said}: time to the quality of sync's last round", second, "fast rounds"),
        report("the same, sync of all", first, "fast rounds"),
        report("validation bits per byte after the last round, sync of all", wanted, "bits"),
        report(f"the same, {said}", buffered.points[-1].mean, "bits"),
        report("the slow silo's after the last round, sync of all", sync.points[-1].slow, "bits"),
        report(f"the slow silo's, {said}", buffered.points[-1].slow, "bits"),
        report(f"updates of the slow silo that counted, {said}", buffered.slow, "updates"),
    ]


def reached(played: Played, wanted: float) -> float:
    """Return when a study was first as good as wanted, in units; infinity if never."""
    return min((p.at / UNIT_S for p in played.points if p.mean <= wanted), default=float("inf"))


def played(schedule: str, number: int, each: int) -> Played:
    """Run a study to its end in virtual time, and score each so many of its commits."""
    with TemporaryDirectory() as home:
        study = from_flat(STUDY | {"schedule": schedule, "rounds": number, "home": home})
        names = [own.name for own in site.simulated(study)]
        grid, points = virtual(study, names), list[Point]()
        parts, rule = config.build(study)
        rule = rule._replace(closes=grid.watched(rule.closes), scored=grid.watched(rule.scored))
        run = runs.join(grid, study, parts, rule, Path(home))
        settled = grid.settle

        def settle() -> None:
            settled()
            if (len(grid.commits) - 1) % each:  # the first is the start
                return
            points.append(point(run, names[0]))
            print(schedule.partition(",")[0], points[-1], flush=True)

        grid.settle = settle  # type: ignore[method-assign]
        rounds.run(run)
        notes = [line.get("arrivals", _noted(line)) for line in record.lines(Path(home))[1:]]
        counted = [one for line in notes for one in line if "weight" in one]
        return Played(points, sum(one["silo"] == names[0] for one in counted))


def _noted(line: record.Line) -> list[dict[str, Any]]:
    return [note | {"silo": silo} for silo, note in line["silos"].items()]


def virtual(study: Study, names: list[str]) -> VirtualGrid:
    """Return the way to real silos in virtual time, of which the first is slow."""

    def bill(silo: str, kind: str, order: messages.Order) -> Bill:
        slower = SLOWER if silo == names[0] else 1
        return Bill(0, 0, slower * UNIT_S if kind == "train" else 0.0)

    place = checked("own", LINE)
    places = {name: Place(place, name, datetime(2026, 11, 30)) for name in names}
    grid = VirtualGrid(places, bill, answers(study, names))
    grid.lay_out = lambda *_: None  # type: ignore[method-assign]  # arrays travel in messages
    return grid


def answers(study: Study, names: list[str]) -> Callable[[str, Any], Any]:
    """Return what the installed app answers for each silo."""
    contexts = {
        name: Context(
            run_id=local.RUN_ID,
            node_id=node,
            node_config={"partition-id": node - 1, "num-partitions": len(names)},
            state=RecordDict(),
            run_config=dict(flat(study)),
        )
        for node, name in enumerate(names, 1)
    }
    return lambda silo, message: client(message, contexts[silo])


def point(run: Run, slow: str) -> Point:
    """Return what the newest commit reaches on the validation text of all silos, asked beside the run."""
    state = runs.recall(run)
    assert state is not None
    answer = answers(run.study, [silo.name for silo in run.cohort.silos])
    reached = {}
    for silo, content in broadcast.contents(run, state):
        said = messages.read_reply(
            answer(silo.name, messages.to(silo.node, "evaluate", content, state.round))
        )
        valid = metrics.by_language(said.metrics, "valid").values()
        bits, size = (sum(score[key] for score in valid) for key in ("bits", "bytes"))
        reached[silo.name] = bits / size
    return Point(run.grid.now(), sum(reached.values()) / len(reached), reached[slow])


if __name__ == "__main__":
    main()
