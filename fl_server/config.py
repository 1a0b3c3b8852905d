"""Read a study file, build its parts, refuse what cannot work: everything that can be known before any training."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fl_client import spec
from fl_client.config import ConfigError, Scalar, Study, flat, from_flat
from fl_client.settings import toml_value
from strategies.combine import Parts, refusals
from strategies.schedules.schedule import Schedule
from strategies.strategy import Strategy


def read(path: Path | None, overrides: Iterable[str] = ()) -> Study:
    """Return the study of a TOML file (or the built-in one) with ``key=value`` overrides; raises ``ConfigError``."""
    pairs = _pairs(path) if path else {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override!r} has no '='; write it as key=value")
        pairs[key.strip()] = _scalar(value.strip())
    return from_flat(pairs)


def build(study: Study) -> tuple[Parts, Schedule]:
    """Return the parts that a study names; raises ``ConfigError`` where one is unknown or they do not fit together."""
    schedule: Schedule = spec.build(study.schedule, "schedule")
    parts = Parts(
        strategy=spec.build(study.strategy, "strategy"),
        weights=spec.build(study.weights, "weights"),
        outer=spec.build(study.outer, "outer"),
        codec=spec.codec(study.codec),
        broadcast=spec.codec(study.broadcast),
        guard=spec.build(study.guard, "guard"),
        alone=study.alone.enabled,
        scored=_in_time(study),
        adaptive=study.train.optimizer == "adamw",
        rank=study.model.rank,
        counted=schedule.waits_for,
        buffered=schedule.buffer is not None,
    )
    parts_of_silos = {
        "task": study.task,
        "partition": study.simulation.partition,
        "parallel": study.train.parallel,
    }
    for kind, text in parts_of_silos.items():
        spec.build(text, kind)
    if study.alone.enabled and not study.evaluate.every:
        raise ConfigError(
            "evaluate.every = 0 scores nothing, so no silo can choose what it reached alone; "
            "add alone.enabled = false, or score at least the last round, as with evaluate.every = 1000"
        )
    study.alone.lrs()
    study.alone.shares()
    study.alone.adapted()
    study.alone.taught()
    study.simulation.dealt(study.model.rank)
    for refusal in refusals(parts):
        raise ConfigError(str(refusal))
    return parts, schedule


def scored(study: Study, schedule: Schedule, number: int) -> bool:
    """Return whether silos are scored after a round; between the first and the last those of a buffer are at work."""
    every, ends = study.evaluate.every, (0, study.rounds)
    return every > 0 and (number in ends or schedule.buffer is None and number % every == 0)


def adapts(study: Study, strategy: Strategy) -> bool:
    """Return whether silos train what is released on their own text; cores are not trained by one silo."""
    return study.alone.enabled and study.alone.adapt and strategy.domain != "core"


def toml(study: Study) -> str:
    """Return the study as a study file, every key written out; ``home`` is left out, it names a machine."""
    tables: dict[str, list[str]] = {"study": []}
    for key, value in flat(study).items():
        table, _, name = key.rpartition(".")
        if key != "home":
            tables.setdefault(table or "study", []).append(f"{name} = {toml_value(value)}")
    return "\n".join(f"[{table}]\n" + "\n".join(lines) + "\n" for table, lines in tables.items())


def _in_time(study: Study) -> bool:
    """Return whether each round has losses to weigh by; of one round those of the base are the newest there can be."""
    return study.evaluate.every > 0 and (study.rounds == 1 or study.evaluate.every < study.rounds)


def _pairs(path: Path) -> dict[str, Any]:
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no study file {path}; give a TOML file, or none for the built-in study"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is no study file: {error}") from None
    pairs: dict[str, Any] = {}
    for table, content in tables.items():
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: {table!r} stands outside a table; put it under [study]")
        prefix = "" if table == "study" else f"{table}."
        pairs |= {f"{prefix}{key}": value for key, value in content.items()}
    return pairs


def _scalar(text: str) -> Scalar:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, (str, int, float, bool)) else text
