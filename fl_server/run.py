"""A study that runs: its silos, its parts, its start, and all that does not change from round to round."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fl_client import messages
from fl_client.config import ConfigError, Study
from fl_client.messages import TOKENS, Order, Reply
from fl_server import adapter_config, controls, introduction, journal, record, room, silos
from fl_server import cohort as cohorts
from fl_server.cohort import Cohort
from fl_server.grid import Grid
from fl_server.journal import State
from fl_server.silos import Silo
from strategies import accumulate, cautions, combine, fedsb, product, scope
from strategies import adapter as algebra
from strategies.adapter import Adapter
from strategies.combine import Parts
from strategies.schedules.schedule import Schedule

LOG = logging.getLogger("bhasha_fl.hub")
MADE_S = 3600.0  # how long one silo may take to load a base and make the first adapter
ENDS = (product.A, product.B, fedsb.CORE, algebra.ROWS)  # of the names in a first adapter
RANKED = {
    "A": (0,),
    "B": (1,),
    "core": (0, 1),
    "rows": (),
}  # the sides of each part that are the rank


class RoundFailed(RuntimeError):
    """Too few silos answered. What was committed is kept and can be resumed: ``then`` says how, by hand."""

    def __init__(self, why: str, then: str = "") -> None:
        super().__init__(". ".join(filter(None, (why, then))))
        self.why = why


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
    present = introduction.introduce(grid)
    scripts = _scripts(present, folder)
    shared, config = _initial(grid, present, Order(scripts=scripts), study)
    base = Order(scripts=scripts, start_sha256=algebra.sha256(shared))
    start = controls.beside(parts.strategy, shared)
    nobody = Cohort([], {})
    run = Run(grid, study, parts, schedule, folder, nobody, {}, start, base, config, {})
    LOG.info("%d silos joined: %s", len(present), ", ".join(silo.name for silo in present))
    for said in cautions.cautions(parts):
        LOG.warning("%s", said)
    return _gathered(run, present)


def grown(run: Run) -> Run:
    """Return the run with the silos that came since it began; the run as it is where none did, or none fits."""
    came = introduction.came(run.grid, run.cohort.silos)
    if not came:
        return run
    present = sorted([*run.cohort.silos, *came], key=lambda silo: silo.name)
    try:
        more = _gathered(run, present)
    except ConfigError as error:
        LOG.warning("silos that came later cannot take part: %s", error)
        return run
    LOG.info("%d silos came: %s", len(came), ", ".join(silo.name for silo in came))
    return more


def came(before: Run, now: Run) -> list[Silo]:
    """Return the silos of a run that had no part in it before."""
    known = {silo.name for silo in before.cohort.silos}
    return [silo for silo in now.cohort.silos if silo.name not in known]


def check_room(run: Run) -> None:
    """Raise ``RoundFailed`` where the hub's disk lacks room for another round: nobody trains what cannot be kept."""
    if not run.grid.roomy():
        raise RoundFailed(room.WAITS)


def among(run: Run, names: Collection[str]) -> Run:
    """Return the run as it is where these of its silos alone take part."""
    return _gathered(run, [silo for silo in run.cohort.silos if silo.name in names])


def _gathered(run: Run, present: list[Silo]) -> Run:
    """Return the run with these silos; raises ``ConfigError`` where the study's parts do not fit them."""
    rank, shared = run.study.model.rank, list(algebra.trained(run.start))
    languages = {silo.name: silo.language for silo in present}
    ranks = {silo.name: silo.rank for silo in present if 0 < silo.rank < rank}
    held = {silo.name: set(silo.counts) for silo in present}
    known = combine.Cohort(languages, tuple(shared), ranks, held)
    for refusal in combine.refusals(run.parts, known):
        raise ConfigError(str(refusal))
    strategy = run.parts.strategy
    cohort = cohorts.gather(present, strategy, sorted(run.start))
    all_ranks = {name: rank for name in languages} | ranks
    size = cohorts.sketch(cohort, strategy, all_ranks, run.schedule.asked(len(present)))
    return run._replace(cohort=cohort, base=run.base._replace(sketch=size), ranks=ranks)


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
    return None if held is None else completed(run, held)


def completed(run: Run, held: State) -> State:
    """Return a state with the groups that it does not hold, of silos that came later, at their start."""
    came = first(run, held.round, held.adapter)
    return State(held.round, *(old | new for old, new in zip(held[1:], came[1:], strict=True)))


def _initial(
    grid: Grid, present: list[Silo], order: Order, study: Study
) -> tuple[Adapter, dict[str, Any]]:
    """Return the seeded adapter and its PEFT configuration, from the first silo that makes a sound one."""
    why = "no silo answered"
    for silo in present:
        content = messages.order(order)
        for _, reply in silos.ask(
            grid, "query.initial", [(silo, content)], silos.all_within(MADE_S)
        ):
            try:
                return _sound(reply, study)
            except ConfigError as error:
                why = f"silo {silo.name} {error}"
                LOG.warning("the first adapter: %s", why)
    raise ConfigError(f"there is no first adapter; {why}")


def _sound(reply: Reply, study: Study) -> tuple[Adapter, dict[str, Any]]:
    """Return the first adapter of a reply and its configuration; raises ``ConfigError`` where it cannot be one."""
    if reply.code:
        raise ConfigError(f"cannot make it: {messages.CODES[reply.code]}")
    ranks, most = set(), study.model.rank
    shared = {name: x for name, x in reply.arrays.items() if name != TOKENS}
    for name, x in shared.items():
        if not name.endswith(ENDS):
            raise ConfigError(f"made {name!r:.100}; its names may end in {', '.join(ENDS)}")
        if x.dtype != np.float32 or x.ndim != 2 or not x.size:
            raise ConfigError(f"made {name:.100} as {x.dtype} {x.shape}, not a matrix of float32")
        if not accumulate.within(x):
            raise ConfigError(f"made {name:.100} with NaN or beyond {accumulate.LIMIT:g}")
        ranks |= {x.shape[axis] for axis in RANKED[algebra.part(name)]}
    if len(ranks) > 1 or max(ranks, default=1) > most:
        raise ConfigError(f"made LoRA pairs of ranks {sorted(ranks)}; the study's is {most}")
    said, tokens = reply.facts.get("peft"), reply.arrays.get(TOKENS)
    return shared, adapter_config.of(said, tokens, study, shared)
