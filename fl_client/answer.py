"""What a model answers to held-out examples, by language: written freely, or chosen among a task's choices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fl_client.config import Study
from fl_client.evaluate import Scores
from fl_client.model import Warm
from fl_client.site import by_language
from tasks import encode
from tasks.task import Example, Task

TOKENS = 2048  # in one batch of choices, their prompts and the padding


def scores(made: Warm, task: Task, examples: Sequence[Example], study: Study) -> Scores:
    """Return the task's own scores by language: over all examples where it has choices, else ``evaluate.answers``."""
    if task.score is None:
        return {}
    found: Scores = {}
    for lang, spoken in by_language(examples).items():
        if task.choices:
            asked, answers = spoken, choose(made, spoken, task.choices)
        else:
            asked = spoken[: study.evaluate.answers]
            answers = write(made, asked, study.evaluate.answer_tokens)
        found[lang] = task.score(answers, asked)
    return found


def write(made: Warm, examples: Sequence[Example], tokens: int) -> list[str]:
    """Return what the model writes after each example's prompt, always the likeliest token, up to so many."""
    written: list[str] = []
    made.model.eval()
    for given in encode.given(examples, made.tokenize, made.end):
        ids = torch.tensor([given[-_room(made, tokens) :]], device=made.device)
        with torch.inference_mode():
            out = made.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                do_sample=False,
                pad_token_id=made.end,
                eos_token_id=made.end,
            )
        written.append(made.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    made.model.train()
    return written


def choose(made: Warm, examples: Sequence[Example], choices: Sequence[str]) -> list[str]:
    """Return for each example the likeliest of the choices, its end mark counted as one of its tokens."""
    answers = [[*tokens, made.end] for tokens in made.tokenize(list(choices))]
    room = _room(made, max(map(len, answers)))
    rows = [
        (given[-room:], answer)
        for given in encode.given(examples, made.tokenize, made.end)
        for answer in answers
    ]
    nats = np.zeros(len(rows))
    made.model.eval()
    for batch in _batches([len(given) + len(answer) for given, answer in rows]):
        nats[batch] = _nats(made, [rows[i] for i in batch])
    made.model.train()
    return [choices[i] for i in nats.reshape(-1, len(choices)).argmin(axis=1)]


def _room(made: Warm, tokens: int) -> int:
    """Return how many tokens may stand before an answer of so many: of a longer prompt the end is read."""
    longest = getattr(made.model.config, "max_position_embeddings", None) or 1 << 20
    return max(1, int(longest) - tokens)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield which rows go together, longest first, so that little is padded and no batch is too large."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        many = max(1, TOKENS // lengths[order[0]])
        yield order[:many]
        order = order[many:]


def _nats(made: Warm, rows: Sequence[tuple[list[int], list[int]]]) -> Any:
    """Return the nats that each answer costs after what is given before it, float64 of shape (rows,)."""
    longest = max(len(given) + len(answer) for given, answer in rows)
    ids = np.full((len(rows), longest), made.end, np.int64)
    labels = np.full_like(ids, encode.IGNORED)
    for row, (given, answer) in enumerate(rows):  # padding behind a row is never looked back at
        ids[row, : len(given) + len(answer)] = given + answer
        labels[row, len(given) : len(given) + len(answer)] = answer
    wanted = torch.from_numpy(labels[:, 1:]).to(made.device)
    with torch.inference_mode():
        logits = made.model(input_ids=torch.from_numpy(ids).to(made.device), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(),
            wanted.flatten(),
            ignore_index=encode.IGNORED,
            reduction="none",
        )
    return loss.view_as(wanted).double().sum(1).cpu().numpy()
