"""What would help silos that are late: each change is rehearsed before it is named.

Tried are a deadline that waits for the slowest, steps scaled by speed where silos do not wait for each other, a codec
that sends a thirtieth, and half the steps.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from fl_client import spec
from fl_client.checks.check import size, span
from fl_client.config import ConfigError, Study
from fl_client.messages import TTL_S
from fl_client.settings import toml_value
from fl_server.simulation import rehearsal
from fl_server.simulation.rehearsal import Table
from fl_server.simulation.seats import Seat

OFTEN = 0.1  # of the rounds that it is asked in: more makes a silo stand out
NAMED = 3  # silos, the latest first
SMALL = "topk(0.05) | int8()"
STEP_S = 300  # deadlines are proposed in so many seconds


def advice(study: Study, seats: list[Seat], start: datetime, found: Table) -> list[str]:
    """Return a sentence for who trains alone too long, and for each silo that is often late, at most ``NAMED``."""
    told = _alone(found)
    late = {n: own for n, own in found["silos"].items() if own["late"] > OFTEN * own["asked"]}
    if not late:
        return told
    changes = alternatives(study, seats, start)
    tried = {said: table for said, other in changes if (table := _tried(other, seats, start))}
    worst = sorted(late, key=lambda name: (-late[name]["late"], name))
    return told + [_sentence(name, late[name], tried) for name in worst[:NAMED]]


def _alone(found: Table) -> list[str]:
    names = [name for name, own in found["silos"].items() if not own["alone_heard"]]
    if not names:
        return []
    return [
        f"{', '.join(names)} trained alone for longer than all rounds may take; after {span(found['before_s'])} they "
        "begin without: lower train.steps, give fewer alone.rates, or a longer deadline_s"
    ]


def alternatives(study: Study, seats: list[Seat], start: datetime) -> Iterator[tuple[str, Study]]:
    """Yield changes to a study that may help, each as it is written there, and the study with it."""
    patient = _with(study, deadline_s=int(TTL_S))
    found = _tried(patient, seats, start) if patient else None
    if found and not found["stopped"] and not any(row["late"] for row in found["rounds"]):
        slowest = max(row["answered_s"] for row in found["rounds"])
        waits = _with(study, deadline_s=math.ceil((slowest + 1) / STEP_S) * STEP_S)
        if waits and waits != study:
            yield f"schedule = {toml_value(waits.schedule)}", waits
    scaled = _with(study, scale_steps=True)
    if scaled and scaled.schedule != study.schedule:
        yield f"schedule = {toml_value(scaled.schedule)}", scaled
    if study.codec != SMALL:
        yield f"codec = {toml_value(SMALL)}", study.model_copy(update={"codec": SMALL})
    if study.train.steps > 1:
        fewer = study.train.model_copy(update={"steps": study.train.steps // 2})
        yield f"train.steps = {fewer.steps}", study.model_copy(update={"train": fewer})


def _with(study: Study, **option: Any) -> Study | None:
    """Return the study with another option of its schedule, None where that has no such option."""
    call = spec.parse(study.schedule, "schedule")[0]
    factory = inspect.signature(spec.factories("schedule")[call.name])
    if not option.keys() <= factory.parameters.keys():
        return None
    given: dict[str, Any] = factory.bind(*call.positional, **call.named).arguments
    written = ", ".join(f"{name}={value!r}" for name, value in (given | option).items())
    return study.model_copy(update={"schedule": f"{call.name}({written})"})


def _tried(study: Study, seats: list[Seat], start: datetime) -> Table | None:
    """Return the rehearsal of a study, None where its parts do not fit."""
    try:
        return rehearsal.rehearse(study, seats, start)
    except ConfigError:
        return None


def _sentence(name: str, own: Table, tried: dict[str, Table]) -> str:
    each = own["each"]
    parts = [f"its line takes {span(each['line_s'])} for {size(each['bytes'])}"]
    parts += [f"training {span(each['work_s'])}"]
    parts += [f"cuts and closed hours {span(each['waits_s'])}"] if each["waits_s"] >= 1 else []
    helps = [
        said
        for said, found in tried.items()
        if not found["stopped"] and not found["silos"][name]["late"]
    ]
    rest = [said for said in tried if not said.startswith("schedule")]
    done = " or ".join(helps) if helps else " nor ".join(["neither a longer deadline", *rest])
    return f"{name} is late in {own['late']} of {own['asked']} rounds: {', '.join(parts)}; {done} would do"
