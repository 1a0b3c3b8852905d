"""A silo that comes after the study: what the adapter of others is worth to it before it trained a single step.

Three institutions of each of three languages train together; the newcomer has another source of one of them, or a
language that nobody held. It is set against its own tuned, early-stopped training, and against the bare base.
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
from strategies import scope
from tasks.task import Site

SEEDS = (7, 8, 9)
HELD, UNHELD = "as,or,ne", "sat,lus,kha"
MEMBERS = "commonvoice-sentences,inkscape-1.2,mediawiki-1.39,tico-19,firefox-esr-153"
OTHER = "libreoffice-7.4"  # a source that no member has


def figures(folder: Path) -> list[Figure]:
    """Train members, and newcomers alone; return what the members' adapters give newcomers at once."""
    gains: dict[str, list[float]] = {}
    for seed in SEEDS:
        for strategy, languages, sources in ((ROWS, HELD, OTHER), (ONE_ROWS, UNHELD, "")):
            kind = "held" if languages == HELD else "unheld"
            members, alone = (folder / f"{who}-{kind}-{seed}" for who in ("members", "alone"))
            _run(members, seed, strategy, HELD, MEMBERS)
            reached = _run(alone, seed, ROWS, languages, sources)["silo_scores"]
            for own in site.simulated(config.read(alone / "study.toml")):
                lang, scores = site.language(own), reached[own.name]
                bits = zero_steps(members, own, lang if kind == "held" else "everyone")
                gains.setdefault(f"{kind}: {lang}, below its own training", []).append(
                    100 * (1 - bits / scores["alone"])
                )
                gains.setdefault(f"{kind}: {lang}, below the bare base", []).append(
                    100 * (1 - bits / scores["before"])
                )
    held = [fmean(v) for k, v in gains.items() if k.startswith("held") and k.endswith("training")]
    label = "newcomer whose language is held, zero steps, below its own training, mean"
    each = [
        report(f"newcomer, language {name}", fmean(values), "%") for name, values in gains.items()
    ]
    return [at_least(label, fmean(held), "%", 5), *each]


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


def _run(folder: Path, seed: int, strategy: str, languages: str, sources: str) -> dict[str, Any]:
    settings: dict[str, Scalar] = STUDY | {
        "strategy": strategy,
        "seed": seed,
        "train.lr": 0.004,
        "alone.rates": RATES,
        "alone.enabled": folder.name.startswith("alone"),
        "simulation.languages": languages,
        "simulation.sources": sources,
        "simulation.partition": "by_source(3)" if sources else "by_language(1)",
    }
    return report_of(folder, settings)
