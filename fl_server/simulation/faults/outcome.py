"""What a trial is made of, and what came of it, as seen from outside of all machines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from fl_client.config import ConfigError
from fl_server import record
from fl_server.journal import State
from fl_server.simulation.faults.disk import Blow, Disk
from fl_server.simulation.faults.network import Weather
from fl_server.simulation.faults.silo import Silo
from fl_server.simulation.faults.study import Shape
from strategies.adapter import Adapter

HUB = "hub"


class Faults(NamedTuple):
    """What is to happen: by machine and operation what its disk does, how the lines are, and by time the rest."""

    blows: dict[str, dict[int, Blow]] = {}
    weather: Weather = Weather(0.0, 0.0, 0.0, {}, 0.0)
    jumps: dict[float, float] = {}  # of the clock on the wall
    kills: dict[float, tuple[str, str]] = {}  # of a machine, and how
    flips: dict[float, str] = {}  # of a bit on a machine's disk, which is then started again
    dark: dict[
        str, float
    ] = {}  # silos that are first switched on when the study has begun without them


class Trial(NamedTuple):
    """What came of a trial."""

    shape: Shape
    faults: Faults
    state: State | None  # after the last round, if it came to that
    lines: list[record.Line]
    back: list[str]  # where the journal held less than had been committed
    gone: list[str]  # updates that silos were told were here, and were not
    hub_disk: Disk
    silos: dict[str, Silo]
    remembered: dict[str, Adapter]
    audited: dict[str, int]
    operations: dict[str, int]
    seconds: float
    changes: int  # times that other silos took part than before
    fired: Counter[str]
    met: Counter[str]  # kills and flips that happened, and those that found nobody or nothing


def recorded(run: Path) -> list[record.Line]:
    """Return the lines of the record; none where it is past mending, and so nothing is told of its rounds."""
    try:
        return record.lines(run)
    except ConfigError:
        return []
