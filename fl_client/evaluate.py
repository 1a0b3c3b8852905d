"""How well an adapter does on held-out text, by language: the bits that it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fl_client.model import Warm
from fl_client.site import by_language
from tasks import encode
from tasks.encode import Blocks
from tasks.task import Example

BATCH = 16

Scores = dict[str, dict[str, float]]


def blocks(made: Warm, examples: Sequence[Example], length: int) -> dict[str, Blocks]:
    """Return held-out text as blocks by language; end marks cost nothing, so bits are those of the text alone."""
    return {
        lang: encode.pack(spoken, made.tokenize, made.end, length, learn_end=False)
        for lang, spoken in by_language(examples).items()
    }


def bits(made: Warm, held_out: dict[str, Blocks]) -> Scores:
    """Return ``bits`` and ``bytes`` by language, in float32 whatever the training used."""
    return {
        lang: {"bits": _bits(made, packed), "bytes": float(packed.bytes)}
        for lang, packed in held_out.items()
    }


def _bits(made: Warm, packed: Blocks) -> float:
    total = 0.0
    ids, labels = (torch.from_numpy(x).to(made.device) for x in (packed.ids, packed.labels))
    made.model.eval()
    with torch.inference_mode():
        for at in range(0, len(ids), BATCH):
            logits = made.model(input_ids=ids[at : at + BATCH], use_cache=False).logits[:, :-1]
            wanted = labels[at : at + BATCH, 1:]
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                wanted.flatten(),
                ignore_index=encode.IGNORED,
                reduction="sum",
            )
            total += loss.item()
    made.model.train()
    return total / math.log(2)


def bits_per_byte(scores: Scores) -> float:
    """Return the bits per byte over all languages together."""
    return sum(s["bits"] for s in scores.values()) / sum(s["bytes"] for s in scores.values())
