"""From examples to blocks of token ids: tokenise, mask, pack. NumPy only; the tokenizer is a function.

Examples are joined by the end mark into one stream, and the stream is cut into pieces of ``length - 1``
tokens; each block is the end mark and one piece, so every token of the stream is predicted exactly once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.task import Example

Tokenize = Callable[[list[str]], list[list[int]]]
IGNORED = -100


class Blocks(NamedTuple):
    """Packed text: ``ids`` and ``labels`` int64 of shape (n, length); how many bytes of text the labels stand for."""

    ids: NDArray[Any]
    labels: NDArray[Any]
    bytes: int
    tokens: int


def pack(
    examples: Sequence[Example], tokenize: Tokenize, end: int, length: int, learn_end: bool = True
) -> Blocks:
    """Return the examples as blocks; prompts are never learned, end marks only where ``learn_end``.

    Raises:
        ValueError: no examples, or a length under 2.
    """
    if not examples or length < 2:
        raise ValueError(f"nothing to pack: {len(examples)} examples, {length=}")
    prompts = tokenize([e.prompt for e in examples])
    texts = tokenize([e.text for e in examples])
    ids: list[int] = []
    labels: list[int] = []
    for prompt, text in zip(prompts, texts, strict=True):
        ids += [*prompt, *text, end]
        labels += [*[IGNORED] * len(prompt), *text, end if learn_end else IGNORED]
    return Blocks(
        _cut(ids, length, first=end, fill=end),
        _cut(labels, length, first=IGNORED, fill=IGNORED),
        sum(len(e.text.encode()) for e in examples),
        sum(map(len, texts)),
    )


def _cut(stream: list[int], length: int, first: int, fill: int) -> NDArray[Any]:
    piece = length - 1
    rows = -(-len(stream) // piece)
    body = np.full(rows * piece, fill, np.int64)
    body[: len(stream)] = stream
    head = np.full((rows, 1), first, np.int64)
    return np.concatenate([head, body.reshape(rows, piece)], axis=1)


def order(step: int, batch: int, blocks: int, key: str) -> NDArray[Any]:
    """Return which blocks optimizer step ``step`` (from 0) trains on, int64 of shape (batch,).

    A seeded permutation for each pass over the data; the answer depends on the arguments alone, so that
    a step can be repeated after a crash.
    """
    at = np.arange(step * batch, (step + 1) * batch)
    passes, place = at // blocks, at % blocks
    return np.array(
        [_permutation(key, int(p), blocks)[i] for p, i in zip(passes, place, strict=True)]
    )


def _permutation(key: str, number: int, blocks: int) -> NDArray[Any]:
    digest = hashlib.sha256(f"{key}:{number}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).permutation(blocks)
