"""Base models: the demonstration base that comes with the package, any Hugging Face folder, hub name or GGUF file.

Weights are read as safetensors (or GGUF) only, never as pickles, and no code from a model folder is ever run.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fl_client.config import ConfigError

BUILTIN = {"builtin:tiny": Path(__file__).parent / "tiny"}


def locate(base: str) -> tuple[str, str]:
    """Return the folder (or hub name) of a base and its GGUF file ('' for safetensors); raises ``ConfigError``."""
    if base.startswith("builtin:"):
        if base not in BUILTIN:
            raise ConfigError(f"model.base={base!r} does not exist; built in: {', '.join(BUILTIN)}")
        return str(BUILTIN[base]), ""
    path = Path(base)
    if path.suffix == ".gguf" and path.is_file():
        return str(path.parent), path.name
    if path.is_dir():
        _check(path)
    elif path.exists() or base.startswith((".", "/", "~")):
        raise ConfigError(
            f"model.base={base!r} is no model folder; give a folder, a GGUF file or a hub name"
        )
    return base, ""


def _check(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"model.base={str(folder)!r} has no config.json, so it is no model folder"
        )
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer.model").is_file():
        raise ConfigError(
            f"model.base={str(folder)!r} has no tokenizer (tokenizer.json); copy it in"
        )
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(
            f"model.base={str(folder)!r} has no safetensors weights; other formats can run code and are not read"
        )


def device() -> torch.device:
    """Return where models run: the first GPU if Torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model(base: str) -> Any:
    """Return the model in float32 on ``device()``, its gradients off; raises ``ConfigError``."""
    options: dict[str, Any] = {} if locate(base)[1] else {"use_safetensors": True}
    if (
        not torch.cuda.is_available()
    ):  # for short blocks on a CPU a quarter faster than fused attention
        options["attn_implementation"] = "eager"
    loaded = _load(AutoModelForCausalLM, base, dtype=torch.float32, **options)
    return loaded.requires_grad_(False).to(device())


@lru_cache(maxsize=4)
def tokenizer(base: str) -> Any:
    """Return the tokenizer; raises ``ConfigError``."""
    return _load(AutoTokenizer, base)


def _load(kind: Any, base: str, **options: Any) -> Any:
    folder, gguf = locate(base)
    if gguf:
        options["gguf_file"] = gguf
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"model.base={base!r} cannot be loaded: {first}") from error


@lru_cache(maxsize=4)
def sha256(base: str) -> str:
    """Return the SHA-256 over the names and contents of a base's weights, tokenizer and configuration."""
    folder, gguf = locate(base)
    path = Path(folder)
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(folder))
    wanted = (
        [path / gguf]
        if gguf
        else sorted([*path.glob("*.safetensors"), *path.glob("*token*.json"), path / "config.json"])
    )
    digest = hashlib.sha256()
    for file in wanted:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
