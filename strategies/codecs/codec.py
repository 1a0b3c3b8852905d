"""What a codec is, and the chain ``a | b | c``.

A codec turns one float32 vector into a shorter or narrower ``values`` array and a few side arrays. In a chain the
values of one codec are the input of the next. Where any link is biased the whole chain runs under error feedback
(Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847): c = e + x, send Q(c), keep e = c - Q(c), so what one
round leaves out a later round sends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from strategies.adapter import Array

Wire = dict[str, Array]


class Codec(NamedTuple):
    """One link. ``decode(values, side, size)`` raises ``ValueError`` on arrays that ``encode`` cannot have made."""

    encode: Callable[[Array], tuple[Array, Wire]]
    decode: Callable[[Array, Wire, int], Array]
    side: tuple[str, ...] = ()  # the names of its side arrays
    biased: bool = False  # runs under error feedback
    narrows: bool = False  # its values are no longer float32, so it must come last
    linear: bool = False
    support_depends_on_data: bool = False


class Chain(NamedTuple):
    """``encode(x, memory)`` returns the wire and the new memory; ``decode(wire, size)`` the vector again."""

    init: Callable[[int], Array]
    encode: Callable[[Array, Array], tuple[Wire, Array]]
    decode: Callable[[Wire, int], Array]
    links: tuple[Codec, ...]


def chain(links: Sequence[Codec]) -> Chain:
    """Return the chain of these codecs; an empty chain sends float32 as it is."""
    links = tuple(links)
    feedback = any(link.biased for link in links)

    def init(size: int) -> Array:
        return np.zeros(size if feedback else 0, np.float32)

    def encode(x: Array, memory: Array) -> tuple[Wire, Array]:
        if not np.all(np.isfinite(x)):
            raise ValueError("the update holds NaN or infinity and is not sent")
        if not feedback:
            return _encode(links, x), memory
        wanted = memory + x
        if not np.all(np.isfinite(wanted)):
            raise ValueError("the update and its residual together are infinity, which is not sent")
        wire = _encode(links, wanted)
        return wire, wanted - _decode(links, wire, x.size)

    def decode(wire: Wire, size: int) -> Array:
        decoded = _decode(links, wire, size)
        if not np.all(np.isfinite(decoded)):
            raise ValueError("the update holds NaN or infinity")
        return decoded

    return Chain(init, encode, decode, links)


def _encode(links: tuple[Codec, ...], x: Array) -> Wire:
    wire: Wire = {}
    values = x
    for number, link in enumerate(links):
        values, side = link.encode(values)
        wire |= {f"{number}.{name}": array for name, array in side.items()}
    return wire | {"values": values}


def _decode(links: tuple[Codec, ...], wire: Wire, size: int) -> Array:
    names = {f"{number}.{name}" for number, link in enumerate(links) for name in link.side}
    if wire.keys() != names | {"values"}:
        raise ValueError(f"the wire holds {sorted(wire)}, not {sorted(names)} and 'values'")
    sides = [{s: wire[f"{n}.{s}"] for s in link.side} for n, link in enumerate(links)]
    values = wire["values"]
    lengths = _lengths(sides, size)
    for link, side, length in reversed(list(zip(links, sides, lengths, strict=True))):
        values = link.decode(values, side, length)
    return check(values, np.float32, size)


def _lengths(sides: list[Wire], size: int) -> list[int]:
    # The input length of each link: a link that drops values says which it kept in its side array "index".
    lengths = [size]
    for side in sides:
        lengths.append(side["index"].size if "index" in side else lengths[-1])
    return lengths[:-1]


def check(array: Array, dtype: type, size: int) -> Array:
    """Return ``array`` if it is a vector of this dtype and size, else raise ``ValueError``."""
    if array.dtype != dtype or array.shape != (size,):
        raise ValueError(
            f"got {array.dtype} of shape {array.shape}; this codec makes {np.dtype(dtype)} of ({size},)"
        )
    return array
