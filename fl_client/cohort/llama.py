"""Bases of Llama's kind: on a CPU their decoder layers compute whole, with the pairs of a cohort.

All else is left to ``layers.beside``. On a GPU Torch's own attention is faster, and keeps no odds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from transformers.activations import SiLUActivation
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from fl_client.cohort import decoder, layers
from fl_client.cohort.attention import Turn
from fl_client.cohort.layers import Pair
from fl_client.model import Warm


@contextmanager
def beside(made: Warm, pairs: dict[str, Pair], dtype: torch.dtype) -> Iterator[None]:
    """Let a model compute with these pairs as ``layers.beside`` does, decoder layers of the known kind whole."""
    every = made.model.named_modules() if made.device.type == "cpu" else ()
    found = {n: m for n, m in every if type(m) is LlamaDecoderLayer and known(m)}
    lit = layers.spark(made)
    whole = {m: _instead(n, _still(m, dtype), lit, pairs) for n, m in found.items()}
    with layers.beside(made, pairs, dtype, found), layers.instead(whole):
        yield


def known(layer: LlamaDecoderLayer) -> bool:
    """Return whether a layer has no more than what is computed here: products without biases, one of them adapted."""
    products = [layer.get_submodule(name) for name in decoder.PRODUCTS]
    adapted = [one for one in products if isinstance(one, LoraLayer)]
    bare = [one for one in products if type(one) is torch.nn.Linear]
    own = [*bare, *(one.base_layer for one in adapted if layers.plain(one))]
    return (
        bool(adapted)
        and len(own) == len(products)
        and all(one.bias is None for one in own)
        and isinstance(layer.mlp.act_fn, (torch.nn.SiLU, SiLUActivation))
    )


def _still(layer: Any, dtype: torch.dtype) -> decoder.Layer:
    products = {name: layers.frozen(layer.get_submodule(name), dtype) for name in decoder.PRODUCTS}
    norms = (layer.input_layernorm, layer.post_attention_layernorm)
    before, between = (decoder.Norm(norm.weight.float(), norm.variance_epsilon) for norm in norms)
    return decoder.Layer(
        products, before, between, layer.self_attn.head_dim, layer.self_attn.scaling
    )


def _instead(name: str, layer: decoder.Layer, lit: torch.Tensor, pairs: dict[str, Pair]) -> Any:
    def forward(x: torch.Tensor, position_embeddings: Any, **rest: Any) -> torch.Tensor:
        own = {product: pairs.get(f"{name}.{product}") for product in decoder.PRODUCTS}
        turn = Turn(*(part[0, :, None, : layer.width // 2] for part in position_embeddings))
        out: torch.Tensor = decoder.Whole.apply(x, lit, layer, own, turn)  # type: ignore[no-untyped-call]
        return out

    return forward
