"""What a base and its adapter look like, known from the base's files alone: no Torch, and no weight is read.

The headers of the safetensors say every shape. Where a folder holds no weights, as on a hub, ``config.json`` says as
much for models that are built like Llama.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from fl_client import rows
from fl_client.config import ConfigError, Model
from strategies.adapter import Layout

PREFIX = "base_model.model."
TABLES = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
NOT_LINEAR = ("lm_head", "embed_out", "wpe", "embed_positions", "position_embeddings")
# Families with q, k, v, o and gate, up, down in each layer, and nothing else that is linear.
LIKE_LLAMA = {
    "llama", "mistral", "ministral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2",
    "olmo3", "granite", "smollm3", "cohere", "cohere2",
}  # fmt: skip
TIED = {"gemma", "gemma2", "gemma3_text", "cohere", "cohere2"}  # where config.json need not say it
OLDER = {
    "num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "max_position_embeddings": "n_positions",
}  # fmt: skip
Matrix = tuple[int, int]  # out, in


class Shape(NamedTuple):
    """A base: its linear layers, the module of its token embeddings, and the sizes that memory and time depend on."""

    linear: dict[str, Matrix]
    embedding: str
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    parameters: int
    source: str
    places: int = 0  # tokens that it reads at once, 0 where its config.json does not say

    @property
    def worked(self) -> int:
        """Return the parameters that every token is multiplied with: the linear layers and the output."""
        return sum(o * i for o, i in self.linear.values()) + self.vocabulary * self.hidden


def folder(base: str) -> Path:
    """Return the folder with a base's ``config.json``; raises ``ConfigError`` where there is none on this machine."""
    path = Path(base)
    if base.startswith("builtin:"):
        path = Path(__file__).parent / "bases" / base.removeprefix("builtin:")
    elif path.suffix == ".gguf":
        path = path.parent
    elif not path.exists():
        path = _cached(base)
    if not (path / "config.json").is_file():
        raise ConfigError(
            f"model.base={base!r} has no config.json on this machine; give a folder that holds the base's "
            "config.json and tokenizer.json (the weights are not needed)"
        )
    return path


def _cached(name: str) -> Path:
    """Return the folder of a hub name that was downloaded before."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
    except (ImportError, ValueError):  # a hub has no such library, and not every text is a name
        found = None
    return Path(found).parent if isinstance(found, str) else Path(name)


def read(base: str) -> Shape:
    """Return the shape of a base on this machine; raises ``ConfigError``."""
    path = folder(base)
    try:
        said = json.loads((path / "config.json").read_text("utf-8"))
        config = {name: said.get(older) for name, older in OLDER.items()} | said
        weights = sorted(path.glob("*.safetensors"))
        found = _from_headers(_headers(weights), config) if weights else _from_config(config, base)
        return found._replace(places=int(config["max_position_embeddings"] or 0))
    except (OSError, ValueError, KeyError, TypeError, StopIteration, SafetensorError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"model.base={base!r} cannot be understood ({type(error).__name__}: {error}); "
            "put back its config.json and safetensors"
        ) from None


def _headers(files: list[Path]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        with safe_open(path, "numpy") as held:
            shapes |= {n: tuple(held.get_slice(n).get_shape()) for n in held.keys()}  # noqa: SIM118
    return shapes


def _from_headers(shapes: dict[str, tuple[int, ...]], config: dict[str, Any]) -> Shape:
    modules = {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }
    embedding = next(n for n in sorted(modules) if _last(n) in TABLES)
    aside = {embedding, *(n for n in modules if _last(n) in NOT_LINEAR)}
    return Shape(
        linear={n: (s[0], s[1]) for n, s in sorted(modules.items()) if n not in aside},
        embedding=embedding,
        vocabulary=modules[embedding][0],
        hidden=modules[embedding][1],
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        parameters=sum(map(prod, shapes.values())),
        source="the headers of its safetensors",
    )


def _from_config(config: dict[str, Any], base: str) -> Shape:
    kind = str(config.get("model_type"))
    if kind not in LIKE_LLAMA:
        raise ConfigError(
            f"model.base={base!r} is a {kind}, whose shapes config.json does not say; "
            f"put its safetensors beside it (known without: {', '.join(sorted(LIKE_LLAMA))})"
        )
    sizes = "hidden_size intermediate_size num_attention_heads vocab_size num_hidden_layers"
    hidden, wide, heads, words, layers = (int(config[name]) for name in sizes.split())
    each = int(config.get("head_dim") or hidden // heads)
    q, kv = heads * each, int(config.get("num_key_value_heads") or heads) * each
    layer: dict[str, Matrix] = {
        "mlp.down_proj": (hidden, wide),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "self_attn.q_proj": (q, hidden),
        "self_attn.v_proj": (kv, hidden),
    }
    linear = {f"model.layers.{n}.{m}": s for n in range(layers) for m, s in layer.items()}
    tables = 1 if config.get("tie_word_embeddings", kind in TIED) else 2
    parameters = sum(map(prod, linear.values())) + (tables * words + 2 * layers + 1) * hidden
    return Shape(
        linear=linear,
        embedding="model.embed_tokens",
        vocabulary=words,
        hidden=hidden,
        layers=layers,
        heads=heads,
        parameters=parameters,
        source="its config.json",
    )


def adapter(shape: Shape, options: Model, base: str, scripts: str) -> Layout:
    """Return the shapes of a study's adapter, the private one aside, as PEFT makes them; raises ``ConfigError``."""
    chosen = _targets(shape, options.targets)
    tensors: Layout = {}
    for name in chosen:
        out, within = shape.linear[name]
        tensors[f"{PREFIX}{name}.lora_A.weight"] = (options.rank, within)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = (out, options.rank)
    trained = rows.count(folder(base), scripts) if options.rows == "scripts" else 0
    if trained:
        name = f"{PREFIX}{shape.embedding}.token_adapter.trainable_tokens_delta"
        tensors[name] = (trained, shape.hidden)
    return tensors


def _targets(shape: Shape, wanted: str) -> list[str]:
    if wanted == "all-linear":
        return list(shape.linear)
    ends = [name.strip() for name in wanted.split(",")]
    found = [n for n in shape.linear if any(n == end or n.endswith(f".{end}") for end in ends)]
    if not found:
        known = sorted({_last(name) for name in shape.linear})
        raise ConfigError(
            f"model.targets={wanted!r} names no layer of this base; it has {', '.join(known)}"
        )
    return found


def reads(base: str, places: int, length: int) -> None:
    """Raise ``ConfigError`` where a base has fewer places than blocks have tokens; ``places`` 0 is not known."""
    if 0 < places < length:
        raise ConfigError(
            f"train.length={length} is more than the {places} tokens that {base!r} reads at once; lower it"
        )


def _last(name: str) -> str:
    return name.rpartition(".")[2]
