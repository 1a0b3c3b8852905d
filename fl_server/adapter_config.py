"""The PEFT configuration of what a study releases, made from the study and the adapter's own tensors.

A silo says which modules and token rows these are of, and that is checked. Nothing else that it says is taken: whoever
loads an adapter has PEFT follow what such a file names.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from fl_client.config import ConfigError, Study
from strategies.adapter import Adapter, Array, part

MODULE = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def of(said: Any, tokens: Array | None, study: Study, shared: Adapter) -> dict[str, Any]:
    """Return the configuration of an adapter of these tensors; raises ``ConfigError`` where a silo's words do not fit.

    ``said`` tells the ``target_modules``, and ``tokens`` the ids of the token rows, where there are any.
    """
    targets = said.get("target_modules") if isinstance(said, dict) else None
    if not _names(targets, modules(shared)):
        raise ConfigError(f"an adapter is said to be of modules {targets!r:.100}, which it is not")
    learned = learned_rows(shared)
    ids = _ids(tokens) if learned else []
    if len(ids) != learned:
        raise ConfigError(f"an adapter of {learned} token rows is said to be of {tokens!r:.100}")
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": study.model.rank,
        "lora_alpha": study.model.alpha,
        "target_modules": targets,
        "trainable_token_indices": ids or None,
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


def _ids(tokens: Array | None) -> list[int]:
    """Return the ids that an array holds, none where it holds something else."""
    plain = tokens is not None and tokens.dtype == np.int32 and tokens.ndim == 1
    return tokens.tolist() if tokens is not None and plain and (tokens >= 0).all() else []
