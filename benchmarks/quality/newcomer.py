"""A silo that comes after the study: what the adapter of others is worth to it before it trained a single step.

Three institutions of each of three languages train together; the newcomer has another source of one of them, or a
language that nobody held. It is set against its own tuned, early-stopped training, and against the bare base. Members
hold as much text as the newcomer, or four times as much, on which they train for twice as many rounds.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from peft import PeftModel

from benchmarks.figures import Figure, at_least, report
from benchmarks.quality.runs import report_of
from benchmarks.quality.splits import ONE_ROWS, RATES, ROWS, STUDY
from fl_client import bases, evaluate, model, site
from fl_client.config import Scalar
from fl_server import config
from fl_server.simulation.interval import interval
from strategies import scope
from tasks.task import Site

SEEDS = (7, 8, 9)
HELD, UNHELD = "as,or,ne", "sat,lus,kha"
MEMBERS = "commonvoice-sentences,inkscape-1.2,mediawiki-1.39,tico-19,firefox-esr-153"
OTHER = "libreoffice-7.4"  # a source that no member has
EQUAL, MORE = 6000, 24000  # characters of each member; a newcomer has as many as the first
ROUNDS = {EQUAL: 12, MORE: 24}
GOAL = 5


def figures(folder: Path) -> list[Figure]:
    """Train members, and newcomers alone; return what the members' adapters give newcomers at once."""
    gains: dict[str, list[float]] = {}
    for seed in SEEDS:
        for kind, languages, sources, characters in (
            ("held", HELD, OTHER, EQUAL),
            ("held", HELD, OTHER, MORE),
            ("unheld", UNHELD, "", EQUAL),
        ):
            members = folder / f"members-{kind}-{characters}-{seed}"
            alone = folder / f"alone-{kind}-{seed}"
            _run(members, seed, ROWS if kind == "held" else ONE_ROWS, HELD, MEMBERS, characters)
            reached = _run(alone, seed, ROWS, languages, sources)["silo_scores"]
            for own in site.simulated(config.read(alone / "study.toml")):
                lang, scores = site.language(own), reached[own.name]
                bits = zero_steps(members, own, lang if kind == "held" else "everyone")
                what = f"{kind} by silos of {characters} characters: {lang}"
                for other, name in (("alone", "its own training"), ("before", "the bare base")):
                    gain = 100 * (1 - bits / scores[other])
                    gains.setdefault(f"{what}, below {name}", []).append(gain)
    each = [
        report(f"newcomer, language {name}", fmean(values), "%") for name, values in gains.items()
    ]
    return [_mean(gains, EQUAL), _mean(gains, MORE), *each]


def _mean(gains: dict[str, list[float]], characters: int) -> Figure:
    """Return the mean over newcomers whose language is held by silos with so much text, and over seeds."""
    begins = f"held by silos of {characters} "
    held = [v for k, v in gains.items() if k.startswith(begins) and k.endswith("training")]
    label = (
        f"newcomer of {EQUAL} characters whose language is held by three silos of {characters} each "
        f"in {ROUNDS[characters]} rounds, zero steps, below its own training, mean"
    )
    found = interval([fmean(one) for one in zip(*held, strict=True)])
    assert found is not None  # every seed has every newcomer
    return at_least(label, found.mean, "%", GOAL, found.half)


def zero_steps(members: Path, own: Site, group: str) -> float:
    """Return the bits per byte of a silo's test text under the adapter that the members released for a group."""
    study = config.read(members / "study.toml")
    spoken = scope.scripts(e.lang for e in own.train)
    made = model.warm(study.model, 0, spoken, study.seed)
    base = bases.model(study.model.base, study.model.quantization, made.device)
    given = PeftModel.from_pretrained(base, str(_released(members, group)))
    held_out = evaluate.blocks(made, own.test, study.train.length)
    return evaluate.bits_per_byte(evaluate.bits(made._replace(model=given), held_out))


def _released(members: Path, group: str) -> Path:
    adapters = [path.parent for path in sorted((members / "adapter").rglob("adapter_config.json"))]
    (one,) = [path for path in adapters if group in (path.name, "everyone")]
    return one


def _run(
    folder: Path,
    seed: int,
    strategy: str,
    languages: str,
    sources: str,
    characters: int = EQUAL,
) -> dict[str, Any]:
    settings: dict[str, Scalar] = STUDY | {
        "strategy": strategy,
        "seed": seed,
        "rounds": ROUNDS[characters],
        "train.lr": 0.004,
        "alone.rates": RATES,
        "alone.enabled": folder.name.startswith("alone"),
        "simulation.characters": characters,
        "simulation.languages": languages,
        "simulation.sources": sources,
        "simulation.partition": "by_source(3)" if sources else "by_language(1)",
    }
    return report_of(folder, settings)
