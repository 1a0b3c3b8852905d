"""Which arrays may leave: tensors of an adapter, the ids of its token rows, and what codecs make of tensors; and
nothing beside them in their file.

The header of a safetensors file may hold any text: in names, in a table of metadata, in fields and white space that no
reader looks at. So it has to be, byte for byte, what this project writes. Numbers cannot be told from text in disguise.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from fl_client import spec, tensors
from fl_client.messages import TOKENS
from strategies.adapter import part
from strategies.codecs.codec import CHOICE

LENGTH = 8  # bytes that say how long a header is
LARGEST = 16 << 20  # bytes of a header
TENSOR = re.compile(
    r"[\w-]{1,64}(\.[\w-]{1,64}){1,20}", re.ASCII
)  # as modules of a model are named
SIDE = re.compile(
    r"[0-9]{1,2}\.(\w+)", re.ASCII
)  # beside the values, by the codec's place in its chain
FIELDS = ["dtype", "shape", "data_offsets"]


def check(file: Path) -> None:
    """Raise ``ValueError`` where a file is not one of arrays that may leave, ``OSError`` where it cannot be read."""
    with file.open("rb") as stream:
        length = stream.read(LENGTH)
        header(length + stream.read(min(_length(length), LARGEST)))
    try:
        with safe_open(file, "numpy"):  # every offset, shape and length is right
            pass
    except SafetensorError as error:
        raise ValueError("it is no file of arrays") from error


def header(content: bytes | memoryview) -> None:
    """Raise ``ValueError`` where such a file, or its first bytes, does not begin with the header that we write."""
    text = bytes(content[LENGTH : LENGTH + _length(bytes(content[:LENGTH]))])
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("it does not begin as a file of arrays does") from error
    if not isinstance(said, dict) or text != _written(said):
        raise ValueError("its header is not as it is written here")
    for name, fields in said.items():
        if not named(name) or not _plain(fields):
            raise ValueError("its header holds something else than arrays of an update")


def _length(first: bytes) -> int:
    return int.from_bytes(first, "little")


def _written(said: dict[str, Any]) -> bytes:
    text = json.dumps(said, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % tensors.ALIGNED)


def _plain(fields: Any) -> bool:
    if not isinstance(fields, dict) or list(fields) != FIELDS:
        return False
    dtype, shape, offsets = fields.values()
    if not isinstance(dtype, str) or dtype not in tensors.TYPES:
        return False
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(type(number) is int for number in shape + offsets)


def named(name: str) -> bool:
    """Return whether an array of this name may leave: a codec's, a tensor of an adapter, the ids of its token rows."""
    side = SIDE.fullmatch(name)
    if name in ("values", TOKENS) or (side and side[1] in _sides()):
        return True
    try:
        return bool(TENSOR.fullmatch(name) and part(name))
    except ValueError:
        return False


@cache
def _sides() -> frozenset[str]:
    codecs = [make() for make in spec.factories("codec").values()]
    return frozenset(name for codec in codecs for name in codec.side) | {CHOICE}
