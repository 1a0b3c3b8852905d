"""Who does the work. Torch is imported here on first use, so that the ClientApp itself starts without it."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fl_client.config import Study
from fl_client.messages import Fault, Order
from fl_client.parcels import Parcel
from fl_client.site import Place
from strategies.adapter import Adapter
from strategies.strategy import Memory
from tasks.task import Site

Kind = Literal["count", "initial", "gradient", "fit", "second", "rail", "score"]


class Job(NamedTuple):
    """What a piece of work needs: the study, where the silo is, what the hub asked for and sent."""

    study: Study
    place: Place
    order: Order
    received: Adapter
    parcel: Parcel | None = None  # of a real silo's inbox: it holds what was received


class Work(NamedTuple):
    """A job at its silo: the study with the silo's own base, its text, its folder, its memory, what the hub asks."""

    study: Study
    site: Site
    home: Path
    memory: Memory
    order: Order
    received: Adapter
    checkpoint_s: float = 0.0
    rank: int = 0  # the study's LoRA rank, which may be above the silo's own
    round_bytes: int = 0  # the most that the silo's line may carry of an update; 0 for no limit


class Result(NamedTuple):
    """What came of it: the arrays that travel, numbers by name, facts as plain data."""

    arrays: Adapter
    metrics: dict[str, float]
    facts: dict[str, Any]
    parcel: Parcel | None = None  # of a real silo's outbox: it holds the arrays


def run(kind: Kind, job: Job) -> Result:
    """Do one piece of work and return its result; raises ``Fault`` with a code.

    A simulated silo works in this process, on a base that stays warm; a real one hands over to its worker group.
    """
    if job.place.silo:
        frames = importlib.import_module("fl_client.frames")
        result: Result = frames.call(frames.socket(job.place.silo), kind, job)
        return result
    return here(kind, job)


def here(kind: Kind, job: Job) -> Result:
    """Do one piece of work in this process; raises ``Fault`` with a code."""
    names = ("work", "basis", "gauge")
    work, basis, gauge = (importlib.import_module(f"fl_client.{name}") for name in names)
    try:
        with gauge.memory():
            if job.place.silo:
                basis.pinned(Path(job.place.silo))
            result: Result = work.KINDS[kind](work.opened(job))
    except MemoryError as error:
        raise Fault("out_of_memory") from error
    return result


def together(kind: Kind, jobs: list[Job]) -> list[Result | Exception]:
    """Do the same work of several simulated silos in this process; return each one's result, or why it failed."""
    work = importlib.import_module("fl_client.work")
    found: list[Result | Exception] = work.together(kind, jobs)
    return found
