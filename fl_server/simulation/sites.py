"""The silos of a simulated study, as its seed deals them and as others do: a seed may leave a silo without text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from fl_client import chat, site
from fl_client.archive import Archive
from fl_client.config import ConfigError, Study
from strategies.combine import Cohort


def dealt(study: Study, seeds: Iterable[int]) -> dict[int, Archive]:
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


class Spoken(NamedTuple):
    """The language of most text of each site by its name, and all languages that each trains on."""

    mostly: dict[str, str]
    held: dict[str, set[str]]


def spoken(study: Study, present: Archive) -> Spoken:
    """Return the languages of sites; raises ``ConfigError``.

    Each site is looked at once: there may be thousands.
    """
    found = Spoken({}, {})
    for own in present:
        chat.framed(site.Own(own, Path(), study))
        found.mostly[own.name] = site.language(own)
        found.held[own.name] = {e.lang for e in own.train}
    return found


def cohort(study: Study, languages: Spoken, shared: tuple[str, ...]) -> Cohort:
    """Return sites, by their languages, as the parts of a study are checked against them."""
    ranks = study.simulation.dealt(study.model.rank)
    all_ranks = {name: ranks[number % len(ranks)] for number, name in enumerate(languages.mostly)}
    less = {name: rank for name, rank in all_ranks.items() if rank < study.model.rank}
    return Cohort(languages.mostly, shared, less, languages.held)
