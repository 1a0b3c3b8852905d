"""An adapter as a PEFT folder that ``PeftModel.from_pretrained(base, folder)`` loads. NumPy and JSON only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from fl_client.memory import write_whole
from strategies import widths
from strategies.adapter import Adapter, Array, layout, part
from strategies.fedsb import folded


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
    """Return the adapter with private and merged slices put behind the shared ones: s [B1 B2 B3][A1; A2; A3].

    A core is multiplied into its B. PEFT knows one rank for all modules, so a module of which less is merged gets zeros
    behind.
    """
    adapter = folded(adapter)
    tensors = {
        name: np.concatenate(_slices(adapter, name), axis=1 if part(name) == "B" else 0)
        for name in adapter
        if part(name) not in ("private", "merged")
    }
    rank = max((len(x) for name, x in tensors.items() if part(name) == "A"), default=0)
    padded = widths.pad(tensors, widths.of(layout(tensors), rank))
    return {name: np.ascontiguousarray(x) for name, x in padded.items()}


def _slices(adapter: Adapter, name: str) -> list[Array]:
    behind = (name.removesuffix(".weight") + kind for kind in (".private", ".merged"))
    return [adapter[one].astype(np.float32) for one in (name, *behind) if one in adapter]


def served(folder: Path, made: Any, study: Any, adapter: Adapter) -> None:
    """Write what a silo serves; an untrained start where the base alone was best."""
    write(folder, made.start | adapter, made.peft_config, study.model.base)
