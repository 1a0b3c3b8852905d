"""A safetensors file written and read without a second copy of its arrays in memory.

Fresh memory is what a large update costs most: ``safetensors.numpy.save`` takes as much again as the arrays hold, and
``load`` twice that. Here the pieces of a file are views of the arrays, and the arrays of a file are views of the file.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from strategies.adapter import Adapter, Array

PIECE = 4 << 20
ALIGNED = 8
NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
TYPES = {name: np.dtype(dtype).newbyteorder("<") for dtype, name in NAMES.items()}


def pieces(arrays: Adapter) -> Iterator[memoryview]:
    """Yield the file of these arrays, at most ``PIECE`` bytes at once: the same arrays give the same bytes."""
    # Wide numbers first, so that each array is aligned.
    order = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header, end = {}, 0
    for name in order:
        array = arrays[name]
        said = {"dtype": NAMES[array.dtype.name], "shape": list(array.shape)}
        header[name] = said | {"data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name in order:
        content = _bytes(arrays[name])
        for at in range(0, len(content), PIECE):
            yield content[at : at + PIECE]


def _bytes(array: Array) -> memoryview:
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def view(file: Path, held: mmap.mmap) -> Adapter:
    """Return the arrays of a file that is mapped into memory, as views of it.

    Raises ``SafetensorError`` where it is no such file, ``KeyError`` where NumPy has no such numbers.
    """
    with safe_open(file, "numpy"):  # every offset, shape and length in the header is right
        pass
    start = 8 + int.from_bytes(held[:8], "little")
    header = json.loads(held[8:start])
    header.pop("__metadata__", None)
    return {name: _array(held, start, said) for name, said in header.items()}


def over(content: bytes) -> Adapter:
    """Return the arrays of the bytes of such a file, as views that cannot be changed; raises ``ValueError``.

    The library would copy them all to say whether they are one. As with it, arrays fill the file without gaps.
    """
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start]) if 8 < start <= len(content) else None
    if not isinstance(header, dict):
        raise ValueError("this is no file of arrays")
    header.pop("__metadata__", None)
    end = 0
    for first, last in sorted(_span(said) for said in header.values()):
        if first != end:
            raise ValueError("arrays lie apart or over each other")
        end = last
    if start + end != len(content):
        raise ValueError("the file is not as long as its arrays")
    return {name: _array(content, start, said) for name, said in header.items()}


def _span(said: Any) -> tuple[int, int]:
    """Return where an array begins and ends by its header; raises ``ValueError`` where it says nothing possible."""
    try:
        (first, end), shape = said["data_offsets"], said["shape"]
        size = TYPES[str(said["dtype"])].itemsize * math.prod(shape)
        whole = all(type(number) is int and number >= 0 for number in (first, end, *shape))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("the header names no array") from error
    if not whole or end - first != size:
        raise ValueError("an array is not as long as its shape")
    return first, end


def _array(held: mmap.mmap | bytes, start: int, said: dict[str, Any]) -> Array:
    first, end = said["data_offsets"]
    dtype = TYPES[str(said["dtype"])]
    count = (end - first) // dtype.itemsize
    return np.frombuffer(held, dtype, count, start + first).reshape(said["shape"])
