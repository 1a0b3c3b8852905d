"""Who does the work. Torch is imported here on first use, so that the ClientApp itself starts without it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fl_client.config import Study
from fl_client.messages import Fault, Order
from strategies.adapter import Adapter
from tasks.task import Site

Kind = Literal["count", "initial", "fit", "rail", "score"]


class Job(NamedTuple):
    """What a piece of work needs: the study, the silo's text and folder, what the hub sent, what was remembered."""

    study: Study
    site: Site
    home: Path
    order: Order
    received: Adapter
    memory: Adapter


class Result(NamedTuple):
    """What came of it: arrays, numbers by name, facts as plain data."""

    arrays: Adapter
    metrics: dict[str, float]
    facts: dict[str, Any]


def run(kind: Kind, job: Job) -> Result:
    """Do one piece of work in this process, on a base that stays warm; raises ``Fault`` with a code."""
    work = importlib.import_module("fl_client.work")
    try:
        result: Result = getattr(work, kind)(job)
    except MemoryError as error:
        raise Fault("out_of_memory") from error
    return result
