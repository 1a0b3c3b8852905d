"""What silos are sent, tensor by tensor through a codec, while the hub keeps its own numbers whole.

The preserved central model (Philippenko & Dieuleveut 2021, arXiv 2102.12528, MCM without its memory): silos train from
a rounded copy of the hub's adapter, and what they learned is added to the adapter that was not rounded. So the rounding
of one round is not in the next one's start, and nothing has to be remembered of it.
"""

from __future__ import annotations

from strategies.adapter import Adapter, Layout, size
from strategies.codecs.codec import Chain, Key, Wire


def whole(codec: Chain) -> bool:
    """Return whether this codec sends float32, so that tensors travel as they are."""
    return not any(link.narrows or link.biased for link in codec.links)


def encode(adapter: Adapter, codec: Chain, seed: int, number: int) -> Wire:
    """Return the arrays that travel before a round, ``PART/NAME`` for each tensor; the tensors where all is whole."""
    if whole(codec):
        return adapter
    wire: Wire = {}
    for name, x in adapter.items():
        own, _ = codec.encode(x.ravel(), codec.init(x.size), Key(seed, number, name))
        wire |= {f"{part}/{name}": array for part, array in own.items()}
    return wire


def decode(wire: Wire, shapes: Layout, codec: Chain, seed: int, number: int) -> Adapter:
    """Return the float32 tensors of these shapes from what ``encode`` sent.

    Raises:
        ValueError: tensors are missing or too many, or arrays are not what this codec makes of these shapes.
    """
    if whole(codec):
        return wire
    sent: dict[str, Wire] = {}
    for key, array in wire.items():
        part, _, name = key.partition("/")
        sent.setdefault(name, {})[part] = array
    if sent.keys() != shapes.keys():
        raise ValueError(f"{sorted(sent.keys() ^ shapes.keys())} are missing or too many")
    adapter = {}
    for name, shape in shapes.items():
        vector = codec.decode(sent[name], size({name: shape}), Key(seed, number, name))
        adapter[name] = vector.reshape(shape)
    return adapter
