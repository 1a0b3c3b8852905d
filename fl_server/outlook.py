"""The outlook of a study at a hub's silos: what each can hold, how long each takes, and what stands in the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from fl_client import footprint, shapes
from fl_client.checks.check import size, span
from fl_client.config import ConfigError, Study
from fl_client.footprint import Need, Room
from fl_client.shapes import Shape
from fl_server import config, forecast, lines, paces, roster, speeds
from fl_server import hub as hubs
from fl_server.forecast import Trip
from fl_server.gateway import seen
from fl_server.lines import Line
from fl_server.paces import Pace, Power
from strategies import adapter as algebra
from strategies import combine, scope
from strategies.adapter import Layout
from strategies.fedsb import cores
from strategies.schedules.schedule import Schedule
from strategies.strategy import Strategy

GPU_FREE = 0.95  # the part of a GPU that a program can have


class Known(NamedTuple):
    """What is known of a silo: from the roster, from what it said of itself, from its last rounds."""

    name: str
    state: str
    languages: tuple[str, ...]
    main: str
    room: Room | None
    power: Power
    line: Line = Line()


class Row(NamedTuple):
    """The outlook of one silo: memory and time (None where it has not said what it has), what is wrong, what to do."""

    silo: Known
    need: Need | None
    pace: Pace | None
    problem: str = ""
    remedy: str = ""


class Outlook(NamedTuple):
    """The outlook of a study: one silo's trip in a late round, of all rounds and silos together, what travels once."""

    study: Study
    shape: Shape
    tensors: Layout
    round: Trip
    total: Trip
    once: Trip
    rows: list[Row]


def known(hub: Path, wanted: str, base: str) -> list[Known]:
    """Return the silos that a plan is for: those named, else all that are not ejected; raises ``ConfigError``."""
    listed = {n: e for n, e in roster.read(hub).items() if e.state != "ejected"}
    names = [name.strip() for name in wanted.split(",") if name.strip()] or sorted(listed)
    unknown = [name for name in names if name not in listed]
    if unknown or not names:
        there = ", ".join(sorted(listed)) or "nobody; invite silos first"
        what = (
            f"silo {unknown[0]} is not on the roster" if unknown else "there is no silo to plan for"
        )
        raise ConfigError(f"{what}; on it: {there}")
    met, fast = seen.load(hub / "seen"), speeds.measured(hub, base)
    return [
        _known(listed[name], seen.of(met, name).hello, fast.get(name, 0.0))
        for name in sorted(set(names))
    ]


def _known(entry: roster.Entry, said: dict[str, Any], tokens_s: float) -> Known:
    counted: dict[str, dict[str, int]] = said.get("languages", {})
    languages = tuple(sorted(counted)) or entry.languages
    main = max(languages, key=lambda lang: counted.get(lang, {}).get("bytes", 0), default="und")
    gpus, cpus = int(said.get("gpus", 0)), int(said.get("cpus", 0))
    processes = int(said.get("processes", 0))
    power = Power(cpus, gpus, tokens_s, float(said.get("uplink_bytes_s", 0)))
    room = None
    if gpus:
        room = Room(int(said.get("gpu_memory_bytes", 0) * GPU_FREE), processes or gpus, True)
    elif said.get("memory_bytes"):
        room = Room(int(said["memory_bytes"]), processes or 1, False)
    return Known(entry.name, entry.state, languages, main, room, power, lines.said(said))


def outlook(study: Study, silos: list[Known], spool_bytes: int) -> Outlook:
    """Return the outlook of a study; raises ``ConfigError`` where its parts do not fit, or its base is not known."""
    parts, schedule = config.build(study)
    shape = shapes.read(study.model.base)
    shapes.reads(study.model.base, shape.places, study.train.length)
    scripts = scope.scripts(lang for silo in silos for lang in silo.languages)
    tensors = shapes.adapter(shape, study.model, study.model.base, scripts)
    tensors |= cores(tensors) if parts.strategy.domain == "core" else {}
    mostly, spoken = {s.name: s.main for s in silos}, {s.name: s.languages for s in silos}
    cohort = combine.Cohort(mostly, tuple(tensors), held=spoken)
    for refusal in combine.refusals(parts, cohort):
        raise ConfigError(str(refusal))
    trips = forecast.trips(study, parts.strategy, tensors, len(silos))
    held = _with_private(tensors, parts.strategy.private_rank)
    rows = []
    for silo in silos:
        trip: Trip | None = trips[-1]
        if silo.line.round_bytes:
            trip = lines.trip(study, parts.strategy, tensors, len(silos), silo.line)
        pace = paces.of(
            study, parts.strategy, shape, silo.power, trip or trips[-1], len(silo.languages)
        )
        need = footprint.need(shape, held, study, silo.room) if silo.room else None
        row = Row(silo, need, pace, *(("", "") if trip else lines.short(silo.line)))
        late = pace is not None and schedule.closes(len(silos), 0, 1, pace.train_s + pace.line_s)
        row = row if row.problem else _judged(row, late, shape, held, study)
        rows.append(row if row.problem else _in_hours(row, trip or trips[-1], schedule, len(silos)))
    ahead = forecast.ahead(parts.strategy, tensors)
    most = max(trip.up for trip in [ahead, *trips])
    rows = rows if most <= spool_bytes else _beyond(rows, most, spool_bytes)
    total = _total(study, parts.strategy, schedule, tensors, len(silos))
    once = forecast.once(study, parts.strategy, tensors, len(silos))
    return Outlook(study, shape, tensors, trips[-1], total, once, rows)


def _beyond(rows: list[Row], most: int, spool_bytes: int) -> list[Row]:
    problem = (
        f"an update of {size(most)} is larger than spool_bytes in hub.toml, {size(spool_bytes)}"
    )
    remedy = "raise spool_bytes, lower model.rank, or send less with codec = 'topk(0.05) | int8()'"
    return [
        row._replace(problem=row.problem or problem, remedy=row.remedy or remedy) for row in rows
    ]


def _total(
    study: Study, strategy: Strategy, schedule: Schedule, tensors: Layout, silos: int
) -> Trip:
    """Return what travels in all rounds: all silos are scored, and train those that a round asks, or a commit holds."""
    trained = schedule.buffer.size if schedule.buffer else schedule.asked(silos)
    ahead, legs = forecast.ahead(strategy, tensors), forecast.legs(study, strategy, tensors, silos)
    down = sum((leg.start + leg.asked) * trained + leg.score * silos for leg in legs)
    up = sum((leg.up + leg.answer) * trained for leg in legs)
    return Trip(ahead.down * silos + down, ahead.up * silos + up)


def _judged(row: Row, late: bool, shape: Shape, held: Layout, study: Study) -> Row:
    if row.need is not None and row.silo.room and not footprint.fits(row.need, row.silo.room):
        where = "a GPU of its" if row.silo.room.gpu else "its memory of"
        each = (
            ""
            if row.silo.room.processes == 1
            else f" for each of {row.silo.room.processes} processes"
        )
        problem = f"about {size(row.need.total)}{each} do not fit into {where} {size(row.silo.room.bytes)}"
        changes = footprint.lower(shape, held, study, row.silo.room)
        remedy = f"set {footprint.said(changes)}" if changes else "take a smaller base"
        return row._replace(problem=problem, remedy=remedy)
    if late and row.pace is not None:
        took = span(row.pace.train_s + row.pace.line_s)
        problem = f"its round takes about {took}, and the schedule closes before"
        return row._replace(
            problem=problem, remedy="lower train.steps, or raise deadline_s in schedule"
        )
    return row


def _in_hours(row: Row, trip: Trip, schedule: Schedule, silos: int) -> Row:
    """Return the row with what is wrong where a silo's hours cannot meet the deadline."""
    rate, pace = row.silo.power.uplink_bytes_s, row.pace
    seconds = pace.train_s + pace.line_s if pace else 0.0
    up_s = trip.up / rate if rate else 0.0
    problem, remedy = lines.late(row.silo.line, schedule, silos, seconds, up_s)
    return row._replace(problem=problem, remedy=remedy)


def _with_private(tensors: Layout, private: int) -> Layout:
    """Return the shapes with the private adapter beside the shared one, as memory holds them."""
    if not private:
        return tensors
    own: Layout = {}
    for name, (first, second) in tensors.items():
        if name.endswith(".weight"):
            of_rank = (private, second) if algebra.part(name) == "A" else (first, private)
            own[name.removesuffix(".weight") + ".private"] = of_rank
    return tensors | own


def read(hub: Path, study: Study, wanted: str) -> Outlook:
    """Return the outlook of a study at a hub; raises ``ConfigError``."""
    settings = hubs.read(hub)
    return outlook(study, known(hub, wanted, study.model.base), settings.spool_bytes)
