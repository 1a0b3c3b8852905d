"""The silos of a simulated study, as its seed deals them and as others do: a seed may leave a silo without text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fl_client import site
from fl_client.config import ConfigError, Study
from strategies.combine import Cohort
from tasks.task import Site


def dealt(study: Study, seeds: Iterable[int]) -> dict[int, tuple[Site, ...]]:
    """Return by seed the sites of a study, with its own seed and with these; raises ``ConfigError``."""
    found = {}
    for seed in dict.fromkeys((study.seed, *seeds)):
        try:
            found[seed] = site.simulated(study.model_copy(update={"seed": seed}))
        except ConfigError as error:
            raise ConfigError(f"{error}{of(study, seed)}") from None
    return found


def of(study: Study, seed: int) -> str:
    """Return which seed a refusal is about, where it is not the study's own."""
    return "" if seed == study.seed else f" (with seed {seed})"


def cohort(study: Study, present: Sequence[Site], shared: tuple[str, ...]) -> Cohort:
    """Return sites as the parts of a study are checked against them."""
    ranks = study.simulation.dealt(study.model.rank)
    held = {own.name: ranks[number % len(ranks)] for number, own in enumerate(present)}
    less = {name: rank for name, rank in held.items() if rank < study.model.rank}
    return Cohort({own.name: site.language(own) for own in present}, shared, less)
