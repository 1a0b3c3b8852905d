"""The PEFT configuration of what a study releases, made from the study and the adapter's own tensors.

A silo says which modules and token rows these are of, and that is checked. Nothing else that it says is taken: whoever
loads an adapter has PEFT follow what such a file names.
"""

from __future__ import annotations

import re
from typing import Any

from fl_client.config import ConfigError, Study
from strategies.adapter import Adapter, part

MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def of(said: Any, study: Study, shared: Adapter) -> dict[str, Any]:
    """Return the configuration of an adapter of these tensors; raises ``ConfigError`` where a silo's words do not fit.

    ``said`` is the silo's own configuration, of which ``target_modules`` and ``trainable_token_indices`` are read.
    """
    told = said if isinstance(said, dict) else {}
    targets, rows = told.get("target_modules"), told.get("trainable_token_indices") or []
    if not _names(targets, modules(shared)):
        raise ConfigError(f"an adapter is said to be of modules {targets!r:.100}, which it is not")
    learned = learned_rows(shared)
    if learned and not (_tokens(rows) and len(rows) == learned):
        raise ConfigError(f"an adapter of {learned} token rows is said to be of {rows!r:.100}")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": study.model.rank,
        "lora_alpha": study.model.alpha,
        "target_modules": targets,
        "trainable_token_indices": rows if learned else None,
    }


def modules(shared: Adapter) -> set[str]:
    """Return the whole names of the modules that an adapter has LoRA tensors of."""
    return {name.split(".lora_")[0] for name in shared if part(name) != "rows"}


def learned_rows(shared: Adapter) -> int:
    """Return how many token rows an adapter holds."""
    return sum(len(x) for name, x in shared.items() if part(name) == "rows")


def _names(targets: Any, found: set[str]) -> bool:
    """Return whether ``targets`` are names, by the end of which every module that was found can be told."""
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        return False
    ends = tuple(f".{name}" for name in targets if MODULE.fullmatch(name))
    return len(ends) == len(targets) and all(f".{module}".endswith(ends) for module in found)


def _tokens(rows: Any) -> bool:
    return isinstance(rows, list) and all(type(row) is int and row >= 0 for row in rows)
