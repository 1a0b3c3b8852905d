"""What a person sees while a study runs."""

from __future__ import annotations

import io
import logging
import sys

from rich.console import Console
from rich.progress import Progress

from fl_server.simulation import baselines, notes
from fl_server.simulation.screen import Watch, compared, tables


def test_why_a_silo_failed_is_shown_also_where_that_is_logged_later():
    out = io.StringIO()
    watch = Watch(Progress(console=Console(file=out, width=120)), 1, verbose=False)
    try:
        raise FileNotFoundError("the text is gone")
    except FileNotFoundError as error:
        told = (type(error), error, error.__traceback__)
    assert sys.exc_info() == (None, None, None)
    record = logging.LogRecord("silo", logging.ERROR, "", 0, "this silo failed", None, told)
    watch.emit(record)
    assert "this silo failed" in out.getvalue()
    assert "FileNotFoundError: the text is gone" in out.getvalue()


def test_brackets_in_what_is_logged_are_shown_as_they_stand():
    out = io.StringIO()
    watch = Watch(Progress(console=Console(file=out, width=120)), 1, verbose=False)
    told = "no text in [/data/x] of [as]"
    watch.emit(logging.LogRecord("silo", logging.WARNING, "", 0, told, None, None))
    assert told in out.getvalue()


def test_brackets_in_the_name_of_a_silo_or_a_method_are_shown_as_they_stand():
    row = language("[as]", before=3.0, after=2.0) | {"silos": 1, "traffic": {"up": 1}}
    own = {"before": 3.0, "alone": None, "together": 2.0, "served": "together"}
    sums = {"up": 1, "down": 1, "dense_up": 1}
    run = {"languages": {"as": row}, "silo_scores": {"[/x]-1": own}, "bytes": sums}
    console = Console(file=io.StringIO(), width=200)
    console.print(tables(run | {"rounds_completed": 1, "wall_s": 1.0}))
    made = {"runs": {"m([a])": run}, "local_only": run, "centralised": run, "also_alone": []}
    console.print(compared(made))
    for shown in ("[as]", "[/x]-1", "m([a])"):
        assert shown in console.file.getvalue()


def language(name, **stages):
    """Return a row of a report: bits per byte by stage, None where a silo of it has no such score."""
    scored = {stage: bits and {"bits_per_byte": bits} for stage, bits in stages.items()}
    return {"name": name, "before": None, "alone": None, "after": None} | scored


def shown(runs, pooled):
    """Return the cells of a comparison, row by row, as a person reads them."""
    sent = {"bytes": {"up": 1000}}
    made = {
        "runs": {
            name: {"languages": rows, "silo_scores": {}} | sent for name, rows in runs.items()
        },
        "centralised": {"languages": pooled},
    }
    table = compared(made | baselines.alone(made["runs"]))
    return list(zip(*(column.cells for column in table.columns), strict=True))


def test_methods_are_compared_where_no_silo_trained_alone():
    rows = {"as": language("Assamese", before=3.0, after=2.0)}
    assert (
        baselines.local_only({"languages": rows, "silo_scores": {}})["languages"]["as"]["after"]
        is None
    )
    (found, _) = shown({"ffa()": rows}, {"as": language("Assamese", after=1.5)})
    assert found == ("Assamese", "3.000", "-", "2.000", "1.500")


def test_a_language_that_was_not_scored_has_dashes_in_a_comparison():
    rows = {"as": language("Assamese", before=3.0, alone=2.5, after=2.0), "ne": language("Nepali")}
    less = {"as": rows["as"]}
    first, second, sent = shown({"ffa()": rows, "fedavg()": less}, less)
    assert first == ("Assamese", "3.000", "2.500", "2.000", "2.000", "2.000")
    assert second == ("Nepali", "-", "-", "-", "-", "-")
    assert sent == ("sent up", "-", "-", "1.0 kB", "1.0 kB", "all text")


def test_a_comparison_is_with_silos_alone_without_a_private_adapter_whatever_comes_first():
    rows = {
        name: {"as": language("Assamese", before=3.0, alone=bits, after=2.0)}
        for name, bits in (("dual()", 2.2), ("fedavg()", 2.5))
    }
    made = {"runs": {name: {"languages": own, "silo_scores": {}} for name, own in rows.items()}}
    found = baselines.alone(made["runs"])
    assert found["local_only"]["languages"]["as"]["after"] == {"bits_per_byte": 2.5}
    assert found["also_alone"] == [{"private": 16, "methods": ["dual()"], "mean": 2.2}]
    said = "dual() has alone with a private adapter of rank 16 beside it: mean 2.200"
    assert notes.compared(found) == [said]
