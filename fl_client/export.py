"""An adapter as a PEFT folder that ``PeftModel.from_pretrained(base, folder)`` loads. NumPy and JSON only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fl_client.memory import write_whole
from strategies.adapter import Adapter, part


def write(folder: Path, adapter: Adapter, peft_config: dict[str, Any], base: str) -> None:
    """Write an adapter of shared tensors (and, in a silo, private ones) as a PEFT folder."""
    tensors = joined(adapter)
    rank = next((x.shape[0] for n, x in tensors.items() if part(n) == "A"), peft_config["r"])
    scaling = peft_config["lora_alpha"] / peft_config["r"]
    config = peft_config | {
        "r": rank,
        "lora_alpha": scaling * rank,
        "base_model_name_or_path": base,
    }
    if not any(part(name) == "rows" for name in tensors):
        config["trainable_token_indices"] = None
    write_whole(folder / "adapter_model.safetensors", save(tensors))
    write_whole(
        folder / "adapter_config.json", json.dumps(config, indent=1, sort_keys=True).encode()
    )


def joined(adapter: Adapter) -> Adapter:
    """Return the adapter with each private slice put behind its shared one: s [B1 B2][A1; A2]."""
    tensors = {}
    for name, shared in adapter.items():
        if name.endswith(".private"):
            continue
        own = adapter.get(name.removesuffix(".weight") + ".private")
        axis = 0 if part(name) == "A" else 1
        tensors[name] = shared if own is None else np.concatenate([shared, own], axis=axis)
    return {name: np.ascontiguousarray(x, np.float32) for name, x in tensors.items()}


def served(folder: Path, made: Any, study: Any, adapter: Adapter) -> None:
    """Write what a silo serves; an untrained start where the base alone was best."""
    write(folder, made.start | adapter, made.peft_config, study.model.base)
