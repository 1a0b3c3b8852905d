"""From examples to blocks of token ids: tokenise, mask, pack. NumPy only; the tokenizer is a function.

Examples are joined by the end mark into one stream, and the stream is cut into pieces of ``length - 1``
tokens; each block is the end mark and one piece, so every token of the stream is predicted exactly once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.task import ASSISTANT, Example

Tokenize = Callable[[list[str]], list[list[int]]]
IGNORED = -100
AT_ONCE = 1024  # examples that are tokenised together: lists of tokens take four times what arrays of them do


class Blocks(NamedTuple):
    """Packed text: ``ids`` and ``labels`` int64 of shape (n, length); how many bytes of text the labels stand for."""

    ids: NDArray[Any]
    labels: NDArray[Any]
    bytes: int
    tokens: int


def pack(
    examples: Sequence[Example], tokenize: Tokenize, end: int, length: int, learn_end: bool = True
) -> Blocks:
    """Return the examples as blocks; what is given is never learned, end marks only where ``learn_end``.

    An end mark follows the text of each example and every earlier turn of the assistant.

    Raises:
        ValueError: no examples, or a length under 2.
    """
    if not examples or length < 2:
        raise ValueError(f"nothing to pack: {len(examples)} examples, {length=}")
    ids: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    tokens = 0
    for parts in _parts(examples, tokenize):
        for part, learned in parts:
            own = np.array([*part, end] if learned else part, np.int32)
            wanted = own.copy() if learned else np.full_like(own, IGNORED)
            wanted[len(part) :] = end if learn_end else IGNORED
            ids.append(own)
            labels.append(wanted)
            tokens += len(part) * learned
    return Blocks(
        _cut(np.concatenate(ids), length, first=end, fill=end),
        _cut(np.concatenate(labels), length, first=IGNORED, fill=IGNORED),
        sum(len(e.learned.encode()) for e in examples),
        tokens,
    )


def given(examples: Sequence[Example], tokenize: Tokenize, end: int) -> list[list[int]]:
    """Return for each example the tokens that its text follows, as ``pack`` lays them, an end mark first."""
    return [
        [end, *(i for part, learned in parts[:-1] for i in ([*part, end] if learned else part))]
        for parts in _parts(examples, tokenize)
    ]


def _parts(
    examples: Sequence[Example], tokenize: Tokenize
) -> Iterator[list[tuple[list[int], bool]]]:
    """Yield each example as its tokens, part by part, and whether they are learned; its text comes last."""
    for first in range(0, len(examples), AT_ONCE):
        some = examples[first : first + AT_ONCE]
        prompts = tokenize([e.prompt for e in some])
        texts = tokenize([e.text for e in some])
        told = [turn.text for e in some for turn in e.turns]
        said = iter(tokenize(told) if told else [])
        for example, prompt, text in zip(some, prompts, texts, strict=True):
            turns = [(next(said), turn.role == ASSISTANT) for turn in example.turns]
            yield [*turns, (prompt, False), (text, True)]


def _cut(stream: NDArray[Any], length: int, first: int, fill: int) -> NDArray[Any]:
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


@lru_cache(maxsize=4)
def _permutation(key: str, number: int, blocks: int) -> NDArray[Any]:
    digest = hashlib.sha256(f"{key}:{number}".encode()).digest()
    made = np.random.default_rng(np.frombuffer(digest, np.uint32)).permutation(blocks)
    made.setflags(write=False)
    return made
