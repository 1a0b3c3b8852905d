"""Adapters of about 20 MB: what LoRA trains on bases of some shapes."""

from __future__ import annotations

from strategies.adapter import Layout

# hidden, key-value width, intermediate, layers, rank: what LoRA on all seven projections of a base trains
SHAPES = {
    "SmolLM2-135M, rank 16": (576, 192, 1536, 30, 16),
    "a base of 1,000 M, rank 8": (2048, 512, 5632, 17, 8),
}
NATURAL = next(iter(SHAPES))  # the base that the README names, at the rank that is the default


def layout(shape: str) -> Layout:
    """Return the tensors of an adapter on a base of this shape, about 20 MB."""
    hidden, pairs, wide, layers, rank = SHAPES[shape]
    sides = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (pairs, hidden),
        "self_attn.v_proj": (pairs, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide),
    }  # fmt: skip
    found: Layout = {}
    for layer in range(layers):
        for name, (out, into) in sides.items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            found |= {f"{stem}.lora_A.weight": (rank, into), f"{stem}.lora_B.weight": (out, rank)}
    return found
