"""Base models: the demonstration base that comes with the package, any Hugging Face folder, hub name or GGUF file.

Weights are read as safetensors (or GGUF) only, never as pickles, and no code from a model folder is ever run.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from fl_client.config import ConfigError

# All that Transformers reads in a model folder, and beside a GGUF file.
FOLDER = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_*",
    "*token*.json", "*.model", "vocab.*", "merges.txt", "*.jinja", "additional_chat_templates/*.jinja",
)  # fmt: skip
BESIDE = ("tokenizer.json", "tokenizer_config.json", "adapter_*")
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
    """Return where models run: this rank's GPU if Torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def model(base: str, quantization: str = "none", where: torch.device | None = None) -> Any:
    """Return the model on ``where`` (or ``device()``), its gradients off; raises ``ConfigError``.

    Its weights are float32, or bfloat16 where ``quantization`` says so; with "nf4" those of its linear layers are
    4-bit NormalFloat. What is trained on it stays float32.
    """
    place = where or device()
    options: dict[str, Any] = {} if locate(base)[1] else {"use_safetensors": True}
    if (
        not torch.cuda.is_available()
    ):  # for short blocks on a CPU a quarter faster than fused attention
        options["attn_implementation"] = "eager"
    if quantization == "nf4":
        return _four_bits(base, place, options)
    width = torch.bfloat16 if quantization == "bfloat16" else torch.float32
    loaded = _load(AutoModelForCausalLM, base, dtype=width, **options)
    return loaded.requires_grad_(False).to(place)


def _four_bits(base: str, place: torch.device, options: dict[str, Any]) -> Any:
    """Return a base with 4-bit layers, as in QLoRA (Dettmers et al. 2023, arXiv 2305.14314); needs bitsandbytes."""
    if locate(base)[1]:
        raise ConfigError(
            f"model.quantization='nf4' needs safetensors weights and {base!r} is a GGUF file; "
            "give the folder of the original model or choose 'none'"
        )
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "model.quantization='nf4' needs bitsandbytes; pip install bitsandbytes, or choose 'none'"
        )
    on_gpu = place.type == "cuda"
    try:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if on_gpu else torch.float32,
        )
        options["device_map"] = {"": torch.cuda.current_device() if on_gpu else "cpu"}
        loaded = _load(AutoModelForCausalLM, base, dtype=torch.float32, **options)
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"model.quantization='nf4' does not work on this machine: {first}; choose 'none'"
        ) from error
    layers = [module for module in loaded.modules() if type(module).__name__ == "Linear4bit"]
    if not layers:
        raise ConfigError(
            f"model.quantization='nf4' finds no linear layer in {base!r}; choose 'none'"
        )
    for (
        layer
    ) in layers:  # else evaluating on some CPUs packs weights into a form without a gradient
        layer.support_avx512bf16_for_cpu = False
    return loaded.requires_grad_(False)


@lru_cache(maxsize=4)
def tokenizer(base: str) -> Any:
    """Return the tokenizer; raises ``ConfigError``."""
    return _load(AutoTokenizer, base)


def tokens(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, without marks, and however long it is."""
    quick = getattr(tokenizer, "backend_tokenizer", None)
    if quick is None:
        return list(tokenizer(texts, add_special_tokens=False)["input_ids"]) if texts else []
    # Half the time of the call above, which also keeps where in the text each token stands.
    quick.no_truncation()
    quick.no_padding()
    return [found.ids for found in quick.encode_batch_fast(texts, add_special_tokens=False)]


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
    """Return the SHA-256 over the names and contents of all that is read of a base, as it was when first asked for."""
    folder, gguf = locate(base)
    path = Path(folder)
    if not path.is_dir():
        from huggingface_hub import snapshot_download

        path = Path(snapshot_download(folder, allow_patterns=list(FOLDER)))
    read = {file for each in (BESIDE if gguf else FOLDER) for file in path.glob(each)}
    digest = hashlib.sha256()
    for file in sorted(filter(Path.is_file, {*read, path / gguf})):
        digest.update(file.relative_to(path).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
