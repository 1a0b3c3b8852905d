"""The LoRA adapter of a study as PEFT wants it: its rank, its layers, and which token rows are trained beside it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig

from fl_client import rows
from fl_client.config import Model
from fl_client.messages import TOKENS
from strategies.adapter import Adapter, part


def config(options: Model, private_rank: int, tokenizer: Any, scripts: str) -> LoraConfig:
    """Return PEFT's settings for a base with this tokenizer, whose letters of these scripts are trained."""
    trained = list(token_rows(tokenizer, scripts)) if options.rows == "scripts" else []
    rank = options.rank + private_rank
    return LoraConfig(
        r=rank,
        lora_alpha=options.alpha * rank / options.rank,
        target_modules=_targets(options.targets),
        trainable_token_indices=trained or None,
        task_type="CAUSAL_LM",
    )


def _targets(value: str) -> str | list[str]:
    return value if value == "all-linear" else [name.strip() for name in value.split(",")]


def plain(config: LoraConfig) -> dict[str, Any]:
    """Return settings as ``adapter_config.json`` holds them."""
    plain = config.to_dict()
    plain["target_modules"] = (
        sorted(config.target_modules)
        if isinstance(config.target_modules, (set, list))
        else config.target_modules
    )
    plain["inference_mode"] = True
    return dict(json.loads(json.dumps(plain, default=str, sort_keys=True)))


def said(config: dict[str, Any], shared: Adapter) -> tuple[dict[str, Any], Adapter]:
    """Return what a hub is told of these tensors: the names of their modules, and as an array which tokens have rows.

    Nothing else of ``plain`` settings is: they name the folder in which this silo keeps the base.
    """
    told = {"target_modules": config["target_modules"]}
    if not any(part(name) == "rows" for name in shared):
        return told, {}
    return told, {TOKENS: np.array(config["trainable_token_indices"], np.int32)}


@lru_cache(maxsize=4)
def token_rows(tokenizer: Any, scripts: str) -> tuple[int, ...]:
    """Return the ids of the token rows to train: single bytes, and tokens whose letters are all of these scripts.

    The list depends on the tokenizer and on public names of scripts alone, never on anyone's text.
    """
    names = rows.names(scripts)
    marks = set(tokenizer.all_special_ids)
    return tuple(
        token
        for token in range(len(tokenizer))
        if token not in marks
        and rows.wanted(tokenizer.convert_ids_to_tokens(token), tokenizer.decode([token]), names)
    )


def share(base: torch.nn.Module, weights: dict[str, torch.nn.Parameter]) -> None:
    """Put these weights in the place of a base's own: those of the same base that an adapter of another rank is on."""
    for name, parameter in weights.items():
        module, _, own = name.rpartition(".")
        setattr(base.get_submodule(module), own, parameter)
