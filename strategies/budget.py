"""How much of an update is sent where a line may carry only so many bytes, and what stays behind for it.

The most that a choice can take is known without the numbers: values of so many bits, their scales, and indices however
they lie. So what fits is chosen before training, the hub can foretell it, and no update is ever too long. As many
numbers as fit are sent, and with as many bits as then fit: under error feedback what is left out waits for a later
round, and so does what rounding took away.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice, product
from typing import NamedTuple

import numpy as np

from strategies.adapter import Array
from strategies.blocks import packed_size
from strategies.codecs.codec import Chain, Codec

CHOICE = 8  # bytes that say what was chosen for a link
Chosen = tuple[int | None, ...]


class Fit(NamedTuple):
    """A chain as it sends a vector: at most so many bytes beside the header, which share of the numbers, their bits."""

    chain: Chain
    bytes: int
    density: float
    bits: int


def fit(codec: Chain, size: int, most: int) -> Fit:
    """Return the chain that sends most of ``size`` numbers in ``most`` bytes, of what the study allows; 0 is no limit.

    Raises ``ValueError`` where the least that the study allows takes more.
    """
    first, *rest = [_among(link, size) for link in codec.links] or [[None]]
    if not most:
        return _sent(codec, (first[-1], *(choices[-1] for choices in rest)), size)
    found = [each for tail in product(*rest) for each in _densest(codec, first, tail, size, most)]
    if not found:
        least = min(_most(codec, (first[0], *tail), size) for tail in product(*rest))
        raise ValueError(f"{least} bytes are the least that the study lets a silo send, not {most}")
    return max(found, key=lambda each: (each.density, each.bits))


def shared(links: Sequence[Codec], size: int) -> tuple[float, int]:
    """Return which share of so many numbers these links send, and the bits of each."""
    count = size
    for link in links:
        count = link.kept(count)
    return count / max(size, 1), links[-1].bits if links else 32


def behind(codec: Chain, x: Array, before: Array, after: Array, sent: Array) -> float:
    """Return the share of the norm of what was to be sent that was not.

    ``x`` is the update, ``before`` and ``after`` what the codec remembers, ``sent`` what the hub decodes.
    """
    wanted = x - before if codec.tracks else sent + after if codec.feedback else x
    whole = float(np.linalg.norm(wanted.astype(np.float64)))
    return float(np.linalg.norm(wanted.astype(np.float64) - sent)) / whole if whole else 0.0


def _among(link: Codec, size: int) -> Sequence[int | None]:
    return link.choices.among(size) if link.choices else [None]


def _densest(
    codec: Chain, first: Sequence[int | None], tail: Chosen, size: int, most: int
) -> list[Fit]:
    """Return the last choice for the first link that fits with these for the others; none where none does."""

    def over(choice: int | None) -> bool:
        return _most(codec, (choice, *tail), size) > most

    at = bisect_left(first, True, key=over)
    # Where Golomb's divisor changes, a few more indices can take a little less.
    near = reversed(first[: at + at // 8 + 8])
    fits = (choice for choice in near if not over(choice))
    return [_sent(codec, (choice, *tail), size) for choice in islice(fits, 1)]


def _sent(codec: Chain, chosen: Chosen, size: int) -> Fit:
    density, bits = shared(_links(codec, chosen), size)
    return Fit(codec.choosing(chosen), _most(codec, chosen, size), density, bits)


def _most(codec: Chain, chosen: Chosen, size: int) -> int:
    """Return the most bytes of arrays that so many numbers come to."""
    total, bits = 0, 32
    for link in _links(codec, chosen):
        total, size, bits = total + link.beside(size), link.kept(size), link.bits
    return (
        total + packed_size(size, bits) + CHOICE * sum(bool(link.choices) for link in codec.links)
    )


def _links(codec: Chain, chosen: Chosen) -> list[Codec]:
    return [
        link.choices.link(choice) if link.choices and choice is not None else link
        for link, choice in zip(codec.links, chosen, strict=False)  # no link at all: one None
    ]
