"""How well an adapter does on held-out text, by language: bits per byte, and the task's own score."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from fl_client.config import Study
from fl_client.model import Warm
from fl_client.site import by_language
from tasks import encode
from tasks.encode import Blocks
from tasks.task import Example, Task

BATCH = 16
NEW_TOKENS = 64

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


def answers(made: Warm, task: Task, examples: Sequence[Example], study: Study) -> Scores:
    """Return the task's own score by language over at most ``evaluate.answers`` examples of each."""
    if task.score is None:
        return {}
    found: Scores = {}
    for lang, spoken in by_language(examples).items():
        chosen = spoken[: study.evaluate.answers]
        found[lang] = task.score([_answer(made, e.prompt) for e in chosen], chosen)
    return found


def _answer(made: Warm, prompt: str) -> str:
    ids = torch.tensor([[made.end, *made.tokenize([prompt])[0]]], device=made.device)
    made.model.eval()
    with torch.inference_mode():
        out = made.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=made.end,
            eos_token_id=made.end,
        )
    made.model.train()
    text: str = made.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text.split("\n")[0].strip()
