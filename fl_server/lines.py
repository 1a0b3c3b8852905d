"""What a silo's line allows, by its ``silo.toml``: how much of an update, in which hours, and what that costs."""

from __future__ import annotations

from typing import Any, NamedTuple

from fl_client import hours
from fl_client.checks.check import size, span
from fl_client.config import Study
from fl_server import forecast
from fl_server.forecast import Trip
from strategies.adapter import Layout
from strategies.schedules.schedule import Schedule
from strategies.strategy import Strategy

COST = ("density", "bits", "up", "left_behind")
LESS = "let silos send less, as codec = 'topk(0.05, least=0.01) | int8(least=4)' does"


class Line(NamedTuple):
    """The most bytes of an update in a round, 0 for no limit, and the hours in which updates are sent, '' for all."""

    round_bytes: int = 0
    update_hours: str = ""

    def held_up_s(self, seconds: float) -> float:
        """Return the most seconds by which the hours hold up an update that takes so many."""
        return hours.parse(self.update_hours).held_up_s(seconds)


def said(hello: dict[str, Any]) -> Line:
    """Return the line as a silo greeted with it."""
    return Line(int(hello.get("round_bytes", 0)), str(hello.get("update_hours", "")))


def trip(study: Study, strategy: Strategy, tensors: Layout, silos: int, line: Line) -> Trip | None:
    """Return what this line carries in the last round, None where it may not carry the study's least update."""
    try:
        return forecast.trips(study, strategy, tensors, silos, line.round_bytes)[-1]
    except ValueError:
        return None


def short(line: Line) -> tuple[str, str]:
    """Return what is wrong where the least update is over the budget, and what to do."""
    return (
        f"its line may carry {size(line.round_bytes)} a round, and the least update of this study is larger",
        f"{LESS}, lower model.rank, or raise round_megabytes in its silo.toml",
    )


def late(
    line: Line, schedule: Schedule, silos: int, seconds: float, up_s: float
) -> tuple[str, str]:
    """Return what is wrong where the hours and the deadline cannot meet, and what to do; '' where they can.

    ``seconds`` is a whole round without the hours, ``up_s`` what of it the update takes.
    """
    held_up = line.held_up_s(up_s)
    if not held_up or not schedule.closes(silos, 0, 1, seconds + held_up):
        return "", ""
    return (
        f"it sends updates from {line.update_hours.replace('-', ' to ')} only, which can hold one up for "
        f"{span(held_up)}, and the schedule closes before",
        f"set deadline_s={seconds + held_up:.0f} or more in schedule, or widen update_hours in its silo.toml",
    )


def cost(recorded: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return what budgets cost each silo that has one, the least and the most of all rounds.

    ``density`` and ``bits`` of what was sent, ``up`` in bytes, and ``left_behind``, the share of the norm that was not.
    """
    held: dict[str, dict[str, list[float]]] = {}
    for line in recorded:
        for silo, note in line["silos"].items():
            for key in COST if "left_behind" in note and "refused" not in note else ():
                if key in note:
                    held.setdefault(silo, {}).setdefault(key, []).append(note[key])
    return {
        silo: {key: [round(min(row), 6), round(max(row), 6)] for key, row in own.items()}
        for silo, own in sorted(held.items())
    }
