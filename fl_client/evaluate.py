"""How well an adapter does on held-out text, by language: the bits that it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client import model
from fl_client.model import Warm
from fl_client.site import by_language
from strategies.adapter import Adapter
from tasks import encode
from tasks.encode import Blocks
from tasks.task import Example

BATCH = 16
T = TypeVar("T")

Scores = dict[str, dict[str, float]]
Bits = dict[str, NDArray[Any]]  # by language, float64: what each block of its text costs


class Asked(NamedTuple):
    """An adapter, and the held-out text by language that it is to be scored on."""

    adapter: Adapter
    text: dict[str, Blocks]


Asking = Generator[list[Asked], list[Bits], T]  # yields what is to be scored, takes its bits


def blocks(made: Warm, examples: Sequence[Example], length: int) -> dict[str, Blocks]:
    """Return held-out text as blocks by language; end marks cost nothing, so bits are those of the text alone."""
    return {
        lang: encode.pack(spoken, made.tokenize, made.end, length, learn_end=False)
        for lang, spoken in by_language(examples).items()
    }


def each(made: Warm, asked: Sequence[Asked]) -> list[Bits]:
    """Return the bits of each block of each text under its adapter; an empty one is the base itself."""
    found = []
    for adapter, text in asked:
        model.write(made, adapter)
        found.append({lang: _bits(made, packed) for lang, packed in text.items()})
    return found


def told(asking: Asking[T], bits: Callable[[list[Asked]], list[Bits]]) -> T:
    """Tell one silo the bits that it asks for until it has its result; return that."""
    try:
        wanted = next(asking)
        while True:
            wanted = asking.send(bits(wanted))
    except StopIteration as ended:
        result: T = ended.value
        return result


def bits(made: Warm, held_out: dict[str, Blocks]) -> Scores:
    """Return the scores of the adapter that is on the model, in float32 whatever the training used."""
    return scores({lang: _bits(made, packed) for lang, packed in held_out.items()}, held_out)


def scores(found: Bits, held_out: dict[str, Blocks]) -> Scores:
    """Return ``bits`` and ``bytes`` by language."""
    return {
        lang: {"bits": float(found[lang].sum()), "bytes": float(packed.bytes)}
        for lang, packed in held_out.items()
    }


def _bits(made: Warm, packed: Blocks) -> NDArray[Any]:
    found = []
    ids, labels = (torch.from_numpy(x).to(made.device) for x in (packed.ids, packed.labels))
    made.model.eval()
    with torch.inference_mode():
        for at in range(0, len(ids), BATCH):
            logits = made.model(input_ids=ids[at : at + BATCH], use_cache=False).logits[:, :-1]
            wanted = labels[at : at + BATCH, 1:]
            nats = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(),
                wanted.flatten(),
                ignore_index=encode.IGNORED,
                reduction="none",
            )
            found.append(in_bits(nats.view(wanted.shape)))
    made.model.train()
    return np.concatenate(found)


def in_bits(nats: torch.Tensor) -> NDArray[Any]:
    """Return nats of tokens (blocks, length) as the bits of each block."""
    total: NDArray[Any] = nats.double().sum(1).cpu().numpy() / math.log(2)
    return total


def bits_per_byte(scores: Scores) -> float:
    """Return the bits per byte over all languages together."""
    return sum(s["bits"] for s in scores.values()) / sum(s["bytes"] for s in scores.values())
