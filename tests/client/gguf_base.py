"""A base as a GGUF file: Llama's shape with random weights, and a token for each byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from transformers.convert_slow_tokenizer import bytes_to_unicode

HIDDEN, WIDE, LAYERS, HEADS, LENGTH = 32, 64, 2, 2, 128
PRODUCTS = {
    "attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (WIDE, HIDDEN), "ffn_up": (WIDE, HIDDEN), "ffn_down": (HIDDEN, WIDE),
}  # fmt: skip


def write(path: Path) -> Path:
    """Write the file and return where it is."""
    tokens = ["<end>", *bytes_to_unicode().values(), "ab"]
    made = GGUFWriter(path, "llama")
    made.add_embedding_length(HIDDEN)
    made.add_feed_forward_length(WIDE)
    made.add_block_count(LAYERS)
    made.add_head_count(HEADS)
    made.add_head_count_kv(HEADS)
    made.add_context_length(LENGTH)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(HIDDEN // HEADS)
    made.add_vocab_size(len(tokens))
    made.add_tokenizer_model("gpt2")
    made.add_token_list(tokens)
    made.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (len(tokens) - 1)])
    made.add_token_merges(["a b"])
    made.add_bos_token_id(0)
    made.add_eos_token_id(0)
    draw = np.random.default_rng(7)
    shapes = {"token_embd": (len(tokens), HIDDEN)}
    shapes |= {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in PRODUCTS.items()}
    for name, shape in shapes.items():
        made.add_tensor(f"{name}.weight", draw.normal(0, 0.2, shape).astype(np.float32))
    norms = [f"blk.{n}.{name}_norm" for n in range(LAYERS) for name in ("attn", "ffn")]
    for name in [*norms, "output_norm"]:
        made.add_tensor(f"{name}.weight", np.ones(HIDDEN, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path
