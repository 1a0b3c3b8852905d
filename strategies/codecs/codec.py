"""What a codec is, and the chain ``a | b | c``.

A codec turns one float32 vector into a shorter or narrower ``values`` array and a few side arrays. In a chain the
values of one codec are the input of the next. Where any link is biased the whole chain runs under error feedback
(Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847): c = decay e + x, send Q(c), keep e = c - Q(c), so what
one round leaves out a later round sends.

A link may leave it to the silo how much it sends, within ``Choices`` that the study gives; the wire says which of them
it was. Nothing that arrives makes a vector longer than the study's own choice would. Some codecs draw: a draw is a
function of a ``Key`` alone, so the silo and the hub make the same one, whenever they ask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from strategies.accumulate import within
from strategies.adapter import Array

Wire = dict[str, Array]
CHOICE = "choice"  # the side array that says what a silo chose for a link


class Key(NamedTuple):
    """Which update this is: the seed of its study, its round, its silo. Lots are drawn by it."""

    seed: int
    round: int
    silo: str


def every(size: int) -> int:
    """Return ``size``: a link that hands on as many values as it was given."""
    return size


def nothing(size: int) -> int:
    """Return 0: the bytes of a link without side arrays."""
    return 0


class Choices(NamedTuple):
    """What a silo may send for a link: the choices for an input of so many, least first, and the link of each."""

    among: Callable[[int], range]
    link: Callable[[int], Codec]


class Codec(NamedTuple):
    """One link. ``decode(values, side, size, key)`` raises ``ValueError`` on what ``encode`` cannot have made."""

    encode: Callable[[Array, Key], tuple[Array, Wire]]
    decode: Callable[[Array, Wire, int, Key], Array]
    side: tuple[str, ...] = ()  # the names of its side arrays
    kept: Callable[[int], int] = every  # how many of so many values it hands on
    chosen: Callable[[Wire, int, Key], Array] | None = None  # as rising indices; None for all
    biased: bool = False  # leaves numbers out, or much of each, so it runs under error feedback
    decay: float = 1.0  # how much of what was left out is still wanted a round later
    keeps_zeros: bool = True  # a zero comes back as one
    contracts: bool = True  # on average nearer to x than sending nothing, as error feedback needs
    bits: int = 32  # of each value
    beside: Callable[[int], int] = nothing  # the most bytes of its side arrays
    choices: Choices | None = None  # where silos may send less; the last one is this link itself
    tracks: bool = False  # what is sent is the change since last time, see ``ef21``

    @property
    def narrows(self) -> bool:
        """Its values are no longer float32, so it must come last."""
        return self.bits < 32


class Chain(NamedTuple):
    """``encode(x, memory, key)`` returns the wire and the new memory; ``decode(wire, size, key)`` the vector again.

    ``read`` is ``decode`` for who looks at the numbers anyway: it lets NaN and infinity through.
    """

    init: Callable[[int], Array]
    encode: Callable[[Array, Array, Key], tuple[Wire, Array]]
    decode: Callable[[Wire, int, Key], Array]
    read: Callable[[Wire, int, Key], Array]
    links: tuple[Codec, ...]
    sent: Callable[[Wire, int], tuple[Codec, ...]]  # the links with which a wire was made
    choosing: Callable[[Sequence[int | None]], Chain]  # the same with what each link is to send
    feedback: bool  # some link is biased or tracks, so a silo remembers something
    tracks: bool = False  # the memory is what the hub believes, and what is decoded its change


def chain(links: Sequence[Codec], chosen: Sequence[int | None] = ()) -> Chain:
    """Return the chain of these codecs; an empty chain sends float32 as it is.

    ``chosen`` is what each link that leaves a choice sends, the most that it may where nothing is given; of a chain
    that ``tracks`` the link that says so is not counted.
    """
    choosing = partial(chain, links)
    tracks = any(link.tracks for link in links)
    links = tuple(link for link in links if not link.tracks)
    feedback = tracks or any(link.biased for link in links)
    decay = math.prod(link.decay for link in links)

    def init(size: int) -> Array:
        return np.zeros(size if feedback else 0, np.float32)

    def encode(x: Array, memory: Array, key: Key) -> tuple[Wire, Array]:
        wanted = x - memory if tracks else _wanted(x, memory, decay) if feedback else x
        if not within(wanted, math.inf):
            with_it = "" if not within(x, math.inf) else " together with its residual"
            raise ValueError(f"the update holds NaN or infinity{with_it} and is not sent")
        wire = _encode(links, chosen, wanted, key)
        if tracks:
            return wire, memory + _decode(links, wire, x.size, key)
        return wire, _left(links, wire, wanted, key) if feedback else memory

    def decode(wire: Wire, size: int, key: Key) -> Array:
        decoded = _decode(links, wire, size, key)
        if not within(decoded, math.inf):
            raise ValueError("the update holds NaN or infinity")
        return decoded

    read, sent = partial(_decode, links), partial(_sent, links)
    return Chain(init, encode, decode, read, links, sent, choosing, feedback, tracks)


def _wanted(x: Array, memory: Array, decay: float) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):  # said in words, by who asked
        return memory + x if decay == 1 else decay * memory + x


def _left(links: tuple[Codec, ...], wire: Wire, wanted: Array, key: Key) -> Array:
    """Return what the wire leaves out of a vector, which is changed for it."""
    first, size = _sent(links, wire, wanted.size)[0], wanted.size
    if first.chosen is None:
        return np.subtract(wanted, _decode(links, wire, size, key), out=wanted)
    side = {name: wire[f"0.{name}"] for name in first.side}
    wanted[first.chosen(side, size, key)] -= _decode(links, wire, size, key, 1)
    return wanted


def _encode(links: tuple[Codec, ...], chosen: Sequence[int | None], x: Array, key: Key) -> Wire:
    wire: Wire = {}
    values = x
    for number, link in enumerate(links):
        if link.choices:
            given = chosen[number] if chosen else None
            choice = link.choices.among(values.size)[-1] if given is None else given
            wire[f"{number}.{CHOICE}"] = np.array([choice], np.int64)
            link = link.choices.link(choice)
        values, side = link.encode(values, key)
        wire |= {f"{number}.{name}": array for name, array in side.items()}
    return wire | {"values": values}


def _decode(links: tuple[Codec, ...], wire: Wire, size: int, key: Key, first: int = 0) -> Array:
    """Return the vector that was given to the link ``first``."""
    names = {f"{number}.{name}" for number, link in enumerate(links) for name in link.side}
    names |= {f"{number}.{CHOICE}" for number, link in enumerate(links) if link.choices}
    if wire.keys() != names | {"values"}:
        raise ValueError(f"the wire holds {sorted(wire)}, not {sorted(names)} and 'values'")
    links = _sent(links, wire, size)
    # The input length of each link follows from the links and their choices, never from what else arrived.
    lengths = list(accumulate(links, lambda length, link: link.kept(length), initial=size))
    values = wire["values"]
    for number, link in reversed(list(enumerate(links))[first:]):
        side = {name: wire[f"{number}.{name}"] for name in link.side}
        values = link.decode(values, side, lengths[number], key)
    return check(values, np.float32, lengths[first])


def _sent(links: tuple[Codec, ...], wire: Wire, size: int) -> tuple[Codec, ...]:
    """Return the links with which this wire was made; raises ``ValueError`` where the study does not allow them."""
    found = []
    for number, link in enumerate(links):
        if link.choices:
            choice = int(check(wire[f"{number}.{CHOICE}"], np.int64, 1)[0])
            among = link.choices.among(size)
            if choice not in among:
                raise ValueError(
                    f"it was sent with choice {choice}, and the study allows {among[0]} to {among[-1]}"
                )
            link = link.choices.link(choice)
        found.append(link)
        size = link.kept(size)
    return tuple(found)


def check(array: Array, dtype: type, size: int) -> Array:
    """Return ``array`` if it is a vector of this dtype and size, else raise ``ValueError``."""
    if array.dtype != dtype or array.shape != (size,):
        raise ValueError(
            f"got {array.dtype} of shape {array.shape}; this codec makes {np.dtype(dtype)} of ({size},)"
        )
    return array
