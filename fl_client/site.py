"""What a silo holds: its text, split and counted. Simulated silos share one corpus, dealt out by a partition."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from fl_client import corpus, digest, silo, spec
from fl_client.archive import Archive
from fl_client.config import ConfigError, Study
from fl_client.corpus import CorpusError
from tasks.partitions.partition import trimmed
from tasks.task import Example, Site, Task

SPLITS = ("train", "valid", "test")


class Place(NamedTuple):
    """Where a silo is: the folder of a real one, or the run folder of a simulation and which silo of it."""

    silo: str = ""
    home: str = ""
    number: int = 0


class Own(NamedTuple):
    """A silo as its work sees it: its text, its folder for this study, and the study with its own base."""

    site: Site
    home: Path
    study: Study
    checkpoint_s: float = 0.0  # between step checkpoints; a simulated silo keeps none
    round_bytes: int = 0  # the most of an update; 0 for no limit


def own(study: Study, place: Place) -> Own:
    """Return what the silo at a place holds; raises ``ConfigError`` where its text or settings cannot be used."""
    if not place.silo:
        sites = simulated(study)
        number, ranks = place.number % len(sites), study.simulation.dealt(study.model.rank)
        site, here = sites[number], of_rank(study, ranks[number % len(ranks)])
        return Own(site, Path(place.home) / "silos" / site.name, here)
    folder = Path(place.silo)
    settings = silo.read(folder)
    here = study.model_copy(
        update={"model": study.model.model_copy(update={"base": settings.base})}
    )
    here = of_rank(here, settings.rank)
    site = _local(
        settings.name, settings.data, settings.lang, study.task, study.evaluate.characters
    )
    rank = "" if here.model.rank == study.model.rank else f"-rank-{here.model.rank}"
    home = folder / "studies" / f"{study.name}-{digest.of(study)[:12]}{rank}"
    return Own(site, home, here, settings.checkpoint_s, settings.round_bytes)


def of_rank(study: Study, rank: int) -> Study:
    """Return the study as a silo of at most this LoRA rank trains it, at the study's scaling; 0 for its rank."""
    model = study.model
    if not 0 < rank < model.rank:
        return study
    own = model.model_copy(update={"rank": rank, "alpha": model.alpha * rank / model.rank})
    return study.model_copy(update={"model": own})


@lru_cache(maxsize=2)
def _local(name: str, data: str, lang: str, task: str, held_out: int) -> Site:
    return _site(name, _examples(data, [], spec.build(task, "task"), lang), 0, held_out)


def simulated(study: Study) -> Archive:
    """Return the sites of a simulated study, in the order of its silos; raises ``ConfigError`` or ``CorpusError``."""
    return _deal(
        study.task, study.seed, study.evaluate.characters, study.simulation.model_dump_json()
    )


@lru_cache(maxsize=2)
def _deal(task: str, seed: int, held_out: int, simulation: str) -> Archive:
    options = Study.model_fields["simulation"].annotation.model_validate_json(simulation)  # type: ignore[union-attr]
    examples = _examples(options.data, named(options.languages), spec.build(task, "task"))
    examples = _from(examples, named(options.sources), options.data)
    try:
        piles = spec.build(options.partition, "partition")(examples, options.silos, seed)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    sites = (_site(name, pile, options.characters, held_out) for name, pile in piles.items())
    return Archive([_pool(list(sites))] if options.pooled else sites)


def _examples(data: str, wanted: list[str], task: Task, lang: str = "") -> list[Example]:
    """Return what a task reads in a corpus, nothing twice. ``lang`` is for text whose language nothing says."""
    kept: dict[Hashable, Example] = {}
    spoken: set[str] = set()
    for place, row in corpus.placed(data, task.fields):
        if lang and row["lang"] == corpus.UNKNOWN:
            row["lang"] = lang
        spoken.add(row["lang"])
        if wanted and row["lang"] not in wanted:
            continue
        example = corpus.example(task, place, row)
        if example is not None:
            kept.setdefault(_said(example), example)
    missing = sorted(set(wanted) - {e.lang for e in kept.values()})
    if missing:
        raise CorpusError(
            f"no text for this task in {', '.join(missing)} in {data}; "
            f"it has {', '.join(sorted(spoken))}: change simulation.languages or add text"
        )
    return list(kept.values())


def _said(example: Example) -> Hashable:
    """Return all that is said in an example, by which it is known again: mostly a text that is held anyway."""
    text = example.text
    return (example.turns, example.prompt, text) if example.turns or example.prompt else text


def named(listed: str) -> list[str]:
    """Return the names between the commas of a text."""
    return [name.strip() for name in listed.split(",") if name.strip()]


def _from(examples: list[Example], sources: list[str], data: str) -> list[Example]:
    """Return the examples of these sources, of all where none are named."""
    held = {example.source or "text" for example in examples}
    if missing := sorted(set(sources) - held):
        raise CorpusError(
            f"no text of {', '.join(missing)} in the languages asked for in {data}; "
            f"their sources are {', '.join(sorted(held))}: change simulation.sources"
        )
    return [e for e in examples if not sources or (e.source or "text") in sources]


def _site(name: str, pile: list[Example], characters: int, held_out: int) -> Site:
    limits = {"train": characters, "valid": held_out, "test": held_out}
    parts = {s: trimmed([e for e in pile if e.split == s], limits[s]) for s in SPLITS}
    for split, kept in parts.items():
        if not kept:
            raise CorpusError(
                f"silo {name} has no text in its {split} split; give it more text or make fewer silos"
            )
    return Site(name, **{s: tuple(kept) for s, kept in parts.items()})


def _pool(sites: list[Site]) -> Site:
    train, valid, test = (tuple(e for s in sites for e in getattr(s, split)) for split in SPLITS)
    return Site("pooled", train, valid, test)


def by_language(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """Return the examples by language, languages sorted."""
    spoken: dict[str, list[Example]] = {}
    for example in examples:
        spoken.setdefault(example.lang, []).append(example)
    return dict(sorted(spoken.items()))


def language(own: Site) -> str:
    """Return the language of most bytes of a silo's training text."""
    held = {
        lang: sum(len(e.learned.encode()) for e in es)
        for lang, es in by_language(own.train).items()
    }
    return max(held, key=lambda lang: held[lang])
