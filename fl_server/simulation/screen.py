"""What a person sees in the terminal: progress with time left while it runs, tables at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.traceback import Traceback

from fl_client.checks.check import size
from fl_client.config import Study
from fl_server import config, summary
from fl_server import report as pages
from fl_server.simulation import notes

LOGGER = "bhasha_fl"


class Watch(logging.Handler):
    """Turns the events that hub and silos log into progress; messages above INFO are printed as they are."""

    def __init__(self, progress: Progress, steps: int, verbose: bool) -> None:
        super().__init__()
        self._progress = progress
        self._verbose = verbose
        self._task = progress.add_task("starting", total=steps)

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        event = getattr(record, "event", {})
        if event.get("kind") == "step":
            self._progress.advance(self._task, event.get("steps", 1))
        elif event.get("kind") == "round":
            self._progress.update(self._task, description=_headline(event["line"]))
        elif record.levelno > logging.INFO or self._verbose:
            self._progress.console.print(
                record.getMessage(), style="yellow", highlight=False, markup=False
            )
            if record.exc_info and record.exc_info[1]:
                failed = Traceback.from_exception(*record.exc_info)
                self._progress.console.print(failed)


def _headline(line: dict[str, Any]) -> str:
    scores = [s for note in line["silos"].values() for s in note.get("valid", {}).values()]
    if not scores:
        return f"round {line['round']}"
    mean = sum(s["bits"] for s in scores) / sum(s["bytes"] for s in scores)
    return f"round {line['round']}: {mean:.3f} bits per byte"


@contextmanager
def watching(
    console: Console, study: Study, silos: int, done: int, verbose: bool, alone: bool
) -> Iterator[None]:
    """Show progress over all training steps to come: of the rounds after ``done``, and of silos alone if they train."""
    parts, schedule = config.build(study)
    each, buffer = silos * study.train.steps, schedule.buffer
    trained = buffer.size * study.train.steps if buffer else each
    steps = trained * (study.rounds - done)
    if alone:
        steps += each * study.rounds * len(study.alone.lrs())
    if config.adapts(study, parts.strategy):
        tries = len(study.alone.adapted()) + len(study.alone.taught())
        steps += each * study.rounds * tries
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    logger = logging.getLogger(LOGGER)
    with Progress(*columns, *times, console=console) as progress:
        watch = Watch(progress, steps, verbose)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
        logger.addHandler(watch)
        try:
            yield
        finally:
            logger.removeHandler(watch)


def tables(report: dict[str, Any]) -> Group:
    """Return the tables of a report: by language, then by silo."""
    spoken = Table(title="Bits per byte by language (lower is better)")
    rows = report["languages"].values()
    names = sorted({n for row in rows for n in row["after"] or ()} - {"bits_per_byte"})
    for heading in (
        "language",
        "silos",
        "before",
        "alone",
        "together",
        "gain",
        "against alone",
        *names,
        "sent up",
    ):
        spoken.add_column(heading, justify="left" if heading == "language" else "right")
    for row in rows:
        before, alone, after = (_bits(row, stage) for stage in ("before", "alone", "after"))
        last = row["after"] or {}
        scores = (f"{last[n]:.1f}" if n in last else "-" for n in names)
        spoken.add_row(
            escape(row["name"]), str(row["silos"]), *_cells(before, alone, after), gain(before, after),
            gain(alone, after), *scores, size(row["traffic"]["up"]),
        )  # fmt: skip
    sent = report["bytes"]
    spoken.caption = (
        f"{report['rounds_completed']} rounds in {report['wall_s']:.0f} s; sent up {size(sent['up'])} "
        f"(dense {size(sent['dense_up'])}), down {size(sent['down'])}"
    )
    return Group(spoken, _by_silo(report["silo_scores"]))


def _by_silo(scores: dict[str, Any]) -> Table:
    silos = Table(title="By silo")
    for heading in ("silo", "before", "alone", "together", "serves", "served", "against alone"):
        silos.add_column(heading, justify="left" if heading in ("silo", "serves") else "right")
    for name, own in scores.items():
        cells = _cells(own["before"], own["alone"], own["together"])
        serves = summary.served(own)
        against = gain(own["alone"], own[serves])
        silos.add_row(escape(name), *cells, own["served"], *_cells(own[serves]), against)
    return silos


def compared(comparison: dict[str, Any]) -> Table:
    """Return one table of a comparison: languages down, methods across."""
    runs: dict[str, Any] = comparison["runs"]
    first = next(iter(runs.values()))
    table = Table(title="Bits per byte on test text (lower is better)")
    for heading in ("language", "before", "alone", *map(escape, runs), "centralised"):
        table.add_column(heading, justify="left" if heading == "language" else "right")
    others = [comparison["local_only"], *runs.values(), comparison["centralised"]]
    for lang, row in first["languages"].items():
        reached = [_bits(each["languages"].get(lang, {}), "after") for each in others]
        table.add_row(escape(row["name"]), *_cells(_bits(row, "before"), *reached))
    sent = [size(run["bytes"]["up"]) for run in runs.values()]
    table.add_row("sent up", "-", "-", *sent, "all text")
    table.caption = escape("; ".join(notes.compared(comparison))) or None
    return table


def swept(sweep: dict[str, Any]) -> Table:
    """Return one table of a sweep: languages down, methods across, each at its best rate, with intervals."""
    methods: dict[str, Any] = sweep["methods"]
    table = Table(title="Bits per byte on test text (lower is better)")
    labels = pages.labels(methods)
    for heading in ("language", "before", *labels):
        table.add_column(heading, justify="left" if heading == "language" else "right")
    for lang, name in sweep["languages"].items():
        held = [row["languages"].get(lang) for row in (sweep["before"], *methods.values())]
        table.add_row(escape(name), *map(known, held))
    table.add_section()
    table.add_row("mean", *(known(row["mean"]) for row in (sweep["before"], *methods.values())))
    gains = (row["gain"] for row in methods.values())
    table.add_row("against alone", "-", *(known(gain, " %", 1) for gain in gains))
    worse = [row.get("worse") for row in methods.values()]
    table.add_row("silos worse", "-", *(f"{row['mean']:.1f}" if row else "-" for row in worse))
    rates = ["own" if name == "alone" else row["rate"] for name, row in methods.items()]
    table.add_row("rate", "-", *("-" if rate is None else str(rate) for rate in rates))
    sent = [row.get("bytes") for row in methods.values()]
    table.add_row("sent up", "-", *(size(row["up"]) if row else "-" for row in sent))
    table.caption = escape("; ".join(notes.swept(sweep, dict(zip(labels, methods, strict=True)))))
    return table


def known(interval: dict[str, Any] | None, unit: str = "", digits: int = 3) -> str:
    """Return a mean with half its interval where there is one."""
    if interval is None:
        return "-"
    half = "" if interval["half"] is None else f" ±{interval['half']:.{digits}f}"
    return f"{round(interval['mean'], digits) + 0.0:.{digits}f}{half}{unit}"  # + 0.0: no -0.0


def _bits(row: dict[str, Any], stage: str) -> Any:
    """Return the bits per byte of a language at a stage, None where it was not scored."""
    return (row.get(stage) or {}).get("bits_per_byte")


def _cells(*values: float | None) -> list[str]:
    return ["-" if value is None else f"{value:.3f}" for value in values]


def gain(before: float | None, after: float | None) -> str:
    """Return how much lower ``after`` is, in percent; a dash where there is nothing to compare."""
    return "-" if not before or after is None else f"{100 * (1 - after / before):.1f} %"
