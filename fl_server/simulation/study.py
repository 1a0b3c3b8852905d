"""One simulated study in a run folder: everything checked first, then run, then its report."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from fl_client import lock, spec
from fl_client.app import app as client
from fl_client.config import ConfigError, Study, flat
from fl_server import config, journal, record
from fl_server.app import app as server
from fl_server.simulation import grid, heap, screen
from fl_server.simulation.pool import Crew, Crews, Died, cores, several
from strategies import combine, scope

T = TypeVar("T")
FREE = 500_000_000  # bytes that a run may need on disk


def prepare(study: Study, seeds: Iterable[int] = ()) -> int:
    """Check all that can be checked before training and return the number of silos; raises ``ConfigError``.

    Silos are checked as the study's seed deals them, and as these ``seeds`` do.
    """
    parts, _ = config.build(study)
    try:
        from fl_client import bases, basis, model
        from fl_server.simulation import sites
    except ImportError as error:
        raise ConfigError(f"simulating needs {error.name}: pip install 'bhasha-fl[sim]'") from None
    quiet()
    bases.locate(study.model.base)
    held = {seed: sites.spoken(study, each) for seed, each in sites.dealt(study, seeds).items()}
    present = held[study.seed].held
    spoken = {lang for own in present.values() for lang in own}
    private, cored = parts.strategy.private_rank, parts.strategy.domain == "core"
    made = model.warm(study.model, private, scope.scripts(spoken), study.seed, core=cored)
    basis.bounded(made, study)
    for seed, languages in held.items():
        for refusal in combine.refusals(parts, sites.cohort(study, languages, tuple(made.start))):
            raise ConfigError(f"{refusal}{sites.of(study, seed)}")
    return len(present)


def folder_for(study: Study, out: Path | None) -> Path:
    """Return the run folder: ``out``, or one under ``runs/`` named after study and time."""
    return (out or Path("runs") / f"{study.name}-{datetime.now():%Y%m%d-%H%M%S}").absolute()


def run(
    study: Study,
    folder: Path,
    console: Console,
    resume: bool = False,
    verbose: bool = False,
    alone_from: Path | None = None,
    processes: int = 1,
    pool: Crew | None = None,
    cohort: int = 0,
    crews: Crews = several,
) -> dict[str, Any]:
    """Run a study in ``folder`` to its end and return its report; raises ``ConfigError`` before anything is trained.

    At most ``cohort`` silos train at once: 1 is one at a time, 0 is as it began, or else as many as do well here.
    What silos reached alone in the run folder ``alone_from`` is handed on; a silo uses it only if it fits. Who works
    for the silos is the ``pool``, or one that ``crews`` makes of so many ``processes``.
    """
    heap.keep()
    config.build(study)
    study = study.model_copy(update={"home": str(folder)})
    with _whole(folder), nullcontext(pool) if pool else crews(min(processes, _most(study))) as crew:
        do = crew.do if crew else _do  # a parent of processes needs no Torch
        silos = do(prepare, study)
        room = (crew.cores, crew.sharing) if crew else (cores(), 1)
        together = do(at_once, study, folder, silos, cohort, *room)
        record.claim(folder, study, resume, together)
        with lock.only_one(folder):
            if alone_from:
                hand_on(alone_from, folder)
            _spacious(folder)
            done = max(journal.committed(folder / "journal"), default=0)
            alone = do(trains_alone, study, folder)
            with screen.watching(console, study, silos, done, verbose, alone):
                grid.run(server, client, silos, flat(study), pool=crew, cohort=together)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text("utf-8"))
    return report


def _most(study: Study) -> int:
    """Return how many silos there are at most, as far as the study alone tells."""
    return 1 if study.simulation.pooled else study.simulation.silos or sys.maxsize


def _do(work: Callable[..., T], *arguments: Any) -> T:
    return work(*arguments)


def _spacious(folder: Path) -> None:
    if shutil.disk_usage(folder).free < FREE:
        raise ConfigError(
            f"the disk of {folder} has under {FREE // 10**6} MB free; choose another --out"
        )


@contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        why = "a process that trained silos died, perhaps for lack of memory"
        raise Died(why, f"Continue with --resume {folder} --processes 1") from None


def at_once(
    study: Study, folder: Path, silos: int, cohort: int, share: int, sharing: int = 1
) -> int:
    """Return how many silos train at once, 0 for one at a time; what a run began with, it goes on with.

    Without either there is a cohort at least for each of the ``share`` cores, and on a GPU what fits into it where so
    many processes are ``sharing`` it.
    """
    from torch import cuda

    from fl_client.cohort import size

    if cohort:
        return cohort if cohort > 1 else 0
    begun = record.cohort(folder)
    free = int(cuda.mem_get_info()[0]) if cuda.is_available() else 0
    return size.chosen(study, silos, share, free // sharing) if begun is None else begun


def hand_on(before: Path, folder: Path) -> None:
    """Copy what each silo reached alone from one run folder to another."""
    for held in sorted((before / "silos").glob("*/alone")):
        target = folder / "silos" / held.parent.name / "alone"
        if not target.exists():
            shutil.copytree(held, target)


def trains_alone(study: Study, folder: Path) -> bool:
    """Return whether some silo of a run folder has yet to train alone."""
    from fl_client import alone, site

    private = spec.build(study.strategy, "strategy").private_rank
    places = (site.Place(home=str(folder), number=n) for n in range(len(site.simulated(study))))
    owns = (site.own(study, place) for place in places)
    reached = (alone.recall(own.home, alone.key(own.study, private)) for own in owns)
    return study.alone.enabled and not all(reached)


def recorded(folder: Path) -> Study:
    """Return the study that a run folder holds; raises ``ConfigError``."""
    if not (folder / "study.toml").is_file():
        raise ConfigError(f"{folder} holds no run to resume; start one with --out {folder}")
    return config.read(folder / "study.toml")


def quiet() -> None:
    """Keep libraries from drawing bars and writing notices over ours."""
    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("httpx", "flwr"):
        logging.getLogger(name).setLevel(logging.ERROR)
