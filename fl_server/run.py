"""A study that runs: its silos, its parts, its start, and all that does not change from round to round."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from fl_client import messages
from fl_client.config import ConfigError, Study
from fl_client.messages import Order
from fl_server import cohort as cohorts
from fl_server import controls, journal, record, silos
from fl_server.cohort import Cohort
from fl_server.grid import Grid
from fl_server.journal import State
from fl_server.silos import Silo
from strategies import adapter as algebra
from strategies import combine, scope
from strategies.adapter import Adapter
from strategies.combine import Parts
from strategies.schedules.schedule import Schedule

LOG = logging.getLogger("bhasha_fl.hub")


class RoundFailed(RuntimeError):
    """Too few silos answered. What was committed is kept and can be resumed."""


class Run(NamedTuple):
    """Everything about a study that does not change from round to round."""

    grid: Grid
    study: Study
    parts: Parts
    schedule: Schedule
    folder: Path
    cohort: Cohort
    alone: dict[str, float]  # bits per byte that silos reached alone, where they told
    start: Adapter
    base: Order  # what every order of this study holds
    peft_config: dict[str, Any]
    ranks: dict[str, int]  # of the silos whose LoRA rank is below the study's


def join(grid: Grid, study: Study, parts: Parts, schedule: Schedule, folder: Path) -> Run:
    """Return the run after its silos introduced themselves and one made the seeded adapter; raises ``ConfigError``."""
    present = silos.introduce(grid)
    scripts = _scripts(present, folder)
    shared, peft_config = _initial(grid, present[0], Order(scripts=scripts))
    languages = {silo.name: silo.language for silo in present}
    ranks = {silo.name: silo.rank for silo in present if 0 < silo.rank < study.model.rank}
    for refusal in combine.refusals(parts, combine.Cohort(languages, tuple(shared), ranks)):
        raise ConfigError(str(refusal))
    start = controls.beside(parts.strategy, shared)
    cohort = cohorts.gather(present, parts.strategy, sorted(start))
    size = cohorts.sketch(cohort, parts.strategy, {s: study.model.rank for s in languages} | ranks)
    base = Order(scripts=scripts, start_sha256=algebra.sha256(shared), sketch=size)
    LOG.info("%d silos joined: %s", len(present), ", ".join(languages))
    return Run(grid, study, parts, schedule, folder, cohort, {}, start, base, peft_config, ranks)


def _scripts(present: list[Silo], folder: Path) -> str:
    """Return the scripts whose token rows are trained: those of the silos that a study began with, whoever is there."""
    begun = next(iter(record.lines(folder)), {})
    spoken = scope.scripts(lang for silo in present for lang in silo.counts)
    return str(begun.get("scripts", spoken))


def first(run: Run, number: int = 0, held: Collection[str] = ()) -> State:
    """Return the state before any training, as after round ``number``, of the groups that are not ``held``.

    The seeded adapter in each, memories at their start.
    """
    groups = cohorts.start(run.cohort, run.start)
    groups = {group: adapter for group, adapter in groups.items() if group not in held}
    groups = cohorts.renewed(groups, run.parts.strategy, run.study.seed, number + 1)
    if run.parts.strategy.survey:  # of silos that nobody has asked, or that came later
        drawn = run.parts.strategy.survey.found
        groups = {g: drawn({}, adapter, str(run.study.seed)) for g, adapter in groups.items()}
    trained = {group: algebra.trained(adapter) for group, adapter in groups.items()}
    outer = {group: run.parts.outer.init(adapter) for group, adapter in trained.items()}
    memory = {group: run.parts.strategy.init(adapter) for group, adapter in trained.items()}
    return State(number, groups, outer, memory)


def recall(run: Run, number: int | None = None) -> State | None:
    """Return a committed round as the journal does; groups whose silos all came later are at their start in it."""
    held = journal.recall(run.folder / "journal", number)
    if held is None:
        return None
    came = first(run, held.round, held.adapter)
    return State(held.round, *(old | new for old, new in zip(held[1:], came[1:], strict=True)))


def _initial(grid: Grid, silo: Silo, order: Order) -> tuple[Adapter, dict[str, Any]]:
    for _, reply in silos.ask(grid, "query.initial", [(silo, messages.order(order))]):
        if not reply.code:
            return reply.arrays, reply.facts["peft"]
        raise ConfigError(
            f"silo {silo.name} cannot make the first adapter: {messages.CODES[reply.code]}"
        )
    raise ConfigError(f"silo {silo.name} did not answer")
