"""What every reader asks to see beside a method: every silo alone, and all text in one place."""

from __future__ import annotations

from typing import Any

from fl_client import spec
from fl_client.config import ConfigError, Study
from fl_server.simulation import tuning

POOLED = {
    "strategy": "fedavg(lora='everyone', rows='everyone')",
    "weights": "uniform()",  # there is one silo, which does not train alone
}


def centralised(study: Study, silos: int) -> dict[float, Study]:
    """Return, by learning rate, the study in which one silo holds all text and takes every silo's steps.

    Raises ``ConfigError`` where nothing is scored.
    """
    if not study.evaluate.every:
        raise ConfigError(
            "methods are compared by their scores: evaluate.every is 1 or more, not 0"
        )
    shared = POOLED | {
        "alone": study.alone.model_copy(update={"enabled": False}),
        "simulation": study.simulation.model_copy(update={"pooled": True}),
    }
    # AdamW as alone, whatever the study trains with: these rates are for it.
    changes = {"steps": study.train.steps * silos, "optimizer": "adamw"}
    return {
        lr: study.model_copy(
            update=shared | {"train": study.train.model_copy(update=changes | {"lr": lr})}
        )
        for lr in study.alone.lrs()
    }


def private_rank(strategy: str) -> int:
    """Return the rank of the private adapter of a strategy: methods of the same one have the same runs alone."""
    return int(spec.build(strategy, "strategy").private_rank)


def alone(runs: dict[str, Any]) -> dict[str, Any]:
    """Return what silos reach alone: ``local_only`` of the lowest private rank, ``also_alone`` of the others."""
    ranks: dict[int, list[str]] = {}
    for strategy in runs:
        ranks.setdefault(private_rank(strategy), []).append(strategy)
    (_, plain), *others = sorted(ranks.items())
    also = [
        {
            "private": rank,
            "methods": names,
            "mean": tuning.mean(runs[names[0]]["languages"], "alone"),
        }
        for rank, names in others
    ]
    return {"local_only": local_only(runs[plain[0]]), "also_alone": also}


def local_only(run: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a run's silos training alone, in the shape of a run's own."""
    return {
        "languages": {
            lang: {"before": row["before"], "after": row["alone"]}
            for lang, row in run["languages"].items()
        },
        "silo_scores": {
            name: {"language": own["language"], "before": own["before"], "after": own["alone"]}
            for name, own in run["silo_scores"].items()
        },
    }
