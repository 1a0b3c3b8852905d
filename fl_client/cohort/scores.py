"""Scores of several silos at once: texts of one adapter in one batch, and several adapters beside one frozen base."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from fl_client import basis, evaluate, export, model, scoring
from fl_client.cohort import layers, loss
from fl_client.cohort.layers import A, B, Pair
from fl_client.cohort.reader import reading
from fl_client.cohort.together import apart, by_likeness, tried
from fl_client.cohort.tokens import Rows
from fl_client.evaluate import Asked, Asking, Bits
from fl_client.model import Warm
from fl_client.workers import Result, Work
from strategies import adapter as algebra
from strategies import widths
from strategies.adapter import Adapter, part
from tasks.encode import IGNORED

LOG = logging.getLogger("bhasha_fl.silo")
TOKENS = {"cpu": 1024, "cuda": 1 << 14}  # in one forward
Forward = Callable[[Sequence[Adapter], Any, Any], Any]


class Begun(NamedTuple):
    """A silo that asks for bits, and where."""

    work: Work
    made: Warm
    asking: Asking[Result]


class Share(NamedTuple):
    """An adapter as it enters products, and which blocks of all that are asked for one forward reads under it."""

    adapter: Adapter
    blocks: list[int]


def told(opened: Sequence[Callable[[], Work]]) -> list[Result | Exception]:
    """Score each silo and return its result, or why it failed, in the order given."""
    return by_likeness([tried(partial(_begun, one)) for one in opened], _alike, _group)


def _begun(opened: Callable[[], Work]) -> Begun:
    work = opened()
    made, strategy = basis.ready(work)
    return Begun(work, made, scoring.asking(work, made, strategy))


def _alike(now: Begun) -> Hashable:
    return id(now.made.model), now.work.study.train.length


def _group(group: list[Begun]) -> list[Result | Exception]:
    """Let each silo ask, answer all at once, and so on until each has its result.

    Where all at once cannot be answered each begins anew by itself: nothing is kept before the last answer.
    """
    outcomes: dict[int, Result | Exception] = {}
    answers: dict[int, list[Bits] | None] = dict.fromkeys(range(len(group)))
    while answers:
        wanted: dict[int, list[Asked]] = {}
        for at, own in answers.items():
            step = tried(partial(_step, group[at].asking, own))
            if isinstance(step, (Result, Exception)):
                outcomes[at] = step
            else:
                wanted[at] = step
        found = tried(partial(_answers, group[0], [x for own in wanted.values() for x in own]))
        if isinstance(found, Exception):
            LOG.warning("%d silos not scored together: %r; one by one now", len(wanted), found)
            del found  # it holds the memory of what failed
            return [
                tried(partial(scoring.single, now.work)) if at in wanted else outcomes[at]
                for at, now in enumerate(group)
            ]
        rest = iter(found)
        answers = {at: list(islice(rest, len(own))) for at, own in wanted.items()}
    return [outcomes[at] for at in range(len(group))]


def _step(asking: Asking[Result], told: list[Bits] | None) -> list[Asked] | Result:
    """Return what a silo asks for next, or its result."""
    try:
        return next(asking) if told is None else asking.send(told)
    except StopIteration as ended:
        result: Result = ended.value
        return result


def _answers(first: Begun, asked: Sequence[Asked]) -> list[Bits]:
    score = evaluate.each if apart(first.work, first.made) else _each
    return score(first.made, asked)


def _each(made: Warm, asked: Sequence[Asked]) -> list[Bits]:
    try:
        return each(made, asked)
    except layers.Unfit:
        return evaluate.each(made, asked)


def each(made: Warm, asked: Sequence[Asked]) -> list[Bits]:
    """Return what ``evaluate.each`` does; all texts are cut into blocks of one length."""
    packed = [text for _, texts in asked for text in texts.values()]
    if not packed:
        return [{} for _ in asked]
    # Each adapter brings what is merged in it: nothing may be left on the model of what stood there before.
    model.write(made, {})
    ids, labels = (np.concatenate([text[k] for text in packed]) for k in (0, 1))
    found = np.zeros(len(ids))
    with ExitStack() as stack:
        made.model.eval()
        stack.callback(made.model.train)
        stack.enter_context(torch.inference_mode())
        forward = stack.enter_context(_scoring(made))
        for shares in _batches(_shares(made, asked), TOKENS[made.device.type] // ids.shape[1]):
            rows = np.concatenate([share.blocks for share in shares])
            found[rows] = forward([share.adapter for share in shares], ids[rows], labels[rows])
    rest = iter(np.split(found, np.cumsum([len(text.ids) for text in packed])[:-1]))
    return [{lang: next(rest) for lang in texts} for _, texts in asked]


def _shares(made: Warm, asked: Sequence[Asked]) -> list[Share]:
    """Return which blocks are read under which adapter; adapters of the same bytes are one."""
    found: dict[str, Share] = {}
    at = 0
    for adapter, texts in asked:
        key = algebra.sha256(adapter)
        if key not in found:
            found[key] = Share(export.joined(made.start | adapter), [])
        count = sum(len(text.ids) for text in texts.values())
        found[key].blocks.extend(range(at, at + count))
        at += count
    return list(found.values())


def _batches(shares: Sequence[Share], most: int) -> Iterator[list[Share]]:
    """Yield what one forward reads: at most so many blocks, as many under each of its adapters."""
    by_count: dict[int, list[Share]] = {}
    for adapter, rows in shares:
        for first in range(0, len(rows), max(1, most)):
            piece = rows[first : first + max(1, most)]
            by_count.setdefault(len(piece), []).append(Share(adapter, piece))
    for count, pieces in by_count.items():
        step = max(1, most // count)
        yield from (pieces[first : first + step] for first in range(0, len(pieces), step))


@contextmanager
def _scoring(made: Warm) -> Iterator[Forward]:
    """Give what returns the bits of blocks (n, length), of which each adapter in turn reads as many."""
    listed = torch.tensor(made.peft_config["trainable_token_indices"] or [], device=made.device)

    def forward(adapters: Sequence[Adapter], ids: Any, labels: Any) -> Any:
        rows = None
        for name in (n for n in adapters[0] if part(n) == "rows"):
            held = _stacked(adapters, name, made.device)
            rows = Rows(held, held, listed)
        head = reader.read_with(_pairs(adapters, made.device), rows)
        wanted = np.full_like(labels, IGNORED)
        wanted[:, :-1] = labels[:, 1:]
        given = torch.from_numpy(ids).to(made.device)
        hidden = reader.hidden(given)
        follows = torch.from_numpy(wanted).to(made.device).flatten()
        nats = loss.nats(hidden, follows, len(adapters), head)
        return evaluate.in_bits(nats.view(given.shape))

    with reading(made, half=False) as reader:
        yield forward


def _pairs(adapters: Sequence[Adapter], device: torch.device) -> dict[str, Pair]:
    """Return the LoRA pairs by layer; a narrower one has zeros behind, and none has gradients."""
    rank = max(map(widths.rank, adapters))
    wide = [widths.pad(x, widths.of(algebra.layout(x), rank)) for x in adapters]
    modules = [name.removesuffix(A) for name in adapters[0] if name.endswith(A)]
    found = {}
    for module in modules:
        a, b = (_stacked(wide, module + half, device) for half in (A, B))
        found[module] = Pair(a, b, a, b)
    return found


def _stacked(adapters: Sequence[Adapter], name: str, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.stack([adapter[name] for adapter in adapters])).to(device)
