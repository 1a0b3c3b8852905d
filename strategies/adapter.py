"""The adapter as plain arrays, and its algebra.

An adapter is a dict from tensor name to float32 array. Names are those of PEFT's saved state dict
(``...q_proj.lora_A.weight``, ``...embed_tokens.trainable_tokens_delta``), so that what is averaged is
what ``PeftModel.from_pretrained`` loads. A second, private slice of the same LoRA pair has the same
name with ``.private`` in place of ``.weight``: s(B1 A1 + B2 A2) = s [B1 B2][A1; A2]. A third, ``.merged``, is
frozen: what went into the base for good (``strategies/merged.py``). ``.lora_B.core`` is a square matrix between the
two factors, B R A (``strategies/fedsb.py``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strategies import draw

Array = NDArray[Any]
Adapter = dict[str, Array]
Layout = dict[str, tuple[int, ...]]

PARTS = ("A", "B", "rows", "private", "merged", "core")
CONTROL = ".control"  # of NAME, beside it: see ``Strategy.controls``
ROWS = ".trainable_tokens_delta"


@lru_cache(1 << 14)  # the same names are asked for again and again
def part(name: str) -> str:
    """Return which part of an adapter a tensor belongs to, one of ``PARTS``; a control variate to its tensor's."""
    name = name.removesuffix(CONTROL)
    if name.endswith(".private"):
        return "private"
    if name.endswith((".lora_A.merged", ".lora_B.merged")):
        return "merged"
    if name.endswith(".lora_B.core"):
        return "core"
    if name.endswith(".lora_A.weight"):
        return "A"
    if name.endswith(".lora_B.weight"):
        return "B"
    if name.endswith(ROWS):
        return "rows"
    raise ValueError(
        f"{name!r} is no adapter tensor; its name should end in lora_A, lora_B or rows"
    )


def layout(adapter: Mapping[str, Array]) -> Layout:
    """Return the shape of each tensor, by name, names sorted."""
    return {name: tuple(adapter[name].shape) for name in sorted(adapter)}


def size(shapes: Layout) -> int:
    """Return the number of scalars in an adapter of these shapes."""
    return sum(map(math.prod, shapes.values()))


def pick(adapter: Adapter, names: Iterable[str]) -> Adapter:
    """Return the tensors with these names; a missing one raises ``KeyError``."""
    return {name: adapter[name] for name in sorted(names)}


def under(prefix: str, arrays: Adapter) -> Adapter:
    """Return the arrays whose names begin with ``prefix``, named without it."""
    return {n.removeprefix(prefix): x for n, x in arrays.items() if n.startswith(prefix)}


def trained(arrays: Adapter) -> Adapter:
    """Return the tensors of an adapter itself, without control variates."""
    return {name: x for name, x in arrays.items() if not name.endswith(CONTROL)}


def controls(arrays: Adapter) -> Adapter:
    """Return the control variates alone."""
    return {name: x for name, x in arrays.items() if name.endswith(CONTROL)}


def zip_with(rule: Callable[..., Array], *adapters: Adapter) -> Adapter:
    """Return ``rule`` applied tensor by tensor to adapters of one layout."""
    first = adapters[0]
    if any(layout(other) != layout(first) for other in adapters[1:]):
        raise ValueError("adapters of different layouts cannot be combined")
    return {name: rule(*(adapter[name] for adapter in adapters)) for name in sorted(first)}


def add(left: Adapter, right: Adapter) -> Adapter:
    """Return ``left + right``."""
    return zip_with(np.add, left, right)


def subtract(left: Adapter, right: Adapter) -> Adapter:
    """Return ``left - right``."""
    return zip_with(np.subtract, left, right)


def change(new: Adapter, old: Adapter) -> Adapter:
    """Return ``new - old`` in float32, in one block of memory, so that ``flatten`` has nothing to copy."""
    if layout(new) != layout(old):
        raise ValueError("adapters of different layouts cannot be combined")
    made = unflatten(np.empty(size(layout(new)), np.float32), layout(new))
    for name, tensor in made.items():
        np.subtract(new[name], old[name], out=tensor, casting="same_kind")
    return made


def zeros(adapter: Adapter) -> Adapter:
    """Return an adapter of the same layout that holds zeros."""
    return zip_with(np.zeros_like, adapter)


def norm(adapter: Adapter) -> float:
    """Return the Euclidean norm over all tensors, summed in float64."""
    return float(
        np.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in adapter.values()))
    )


def flatten(adapter: Adapter) -> Array:
    """Return all tensors as one float32 vector, names sorted; where they lie in one, in turn, a view of it."""
    parts = [np.ravel(adapter[n]) for n in sorted(adapter) if adapter[n].size]
    if not parts:
        return np.zeros(0, np.float32)
    whole = joined(parts)
    if whole is not None and whole.dtype == np.float32:
        return whole
    return np.concatenate(parts, dtype=np.float32, casting="unsafe")


def joined(parts: list[Array]) -> Array | None:
    """Return the part of one vector that these arrays are, in turn; None where they lie apart."""
    parts = [part for part in parts if part.size]
    whole = parts[0].base if parts else None
    if not isinstance(whole, np.ndarray) or whole.strides != (whole.itemsize,):
        return None
    first = end = parts[0].ctypes.data
    for part in parts:
        near = part.base is whole and part.dtype == whole.dtype and part.ctypes.data == end
        if not near or not part.flags.c_contiguous:
            return None
        end += part.nbytes
    begin = (first - whole.ctypes.data) // whole.itemsize
    return np.asarray(whole[begin : begin + (end - first) // whole.itemsize])


def unflatten(vector: Array, shapes: Layout) -> Adapter:
    """Return the adapter whose ``flatten`` is ``vector``; raises ``ValueError`` on another length."""
    if vector.shape != (size(shapes),):
        raise ValueError(
            f"{vector.shape=} does not hold the {size(shapes)} numbers of this adapter"
        )
    tensors, at = {}, 0
    for name in sorted(shapes):
        count = math.prod(shapes[name])
        tensors[name] = vector[at : at + count].reshape(shapes[name])
        at += count
    return tensors


def sha256(adapter: Adapter) -> str:
    """Return the SHA-256 of names, shapes and float32 bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(adapter):
        tensor = np.ascontiguousarray(adapter[name], dtype="<f4")
        digest.update(f"{len(name)}:{name}{tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def initial(name: str, shape: tuple[int, ...], seed: int | str) -> Array:
    """Return the seeded first value of a LoRA tensor: Kaiming uniform for A, zeros for B (LoRA, 2106.09685).

    A core begins as the identity, as if it were not there. The draw depends on the seed and the name alone, so every
    silo makes the same one and it need not travel.
    """
    if part(name) == "core":
        return np.eye(*shape, dtype=np.float32)
    if ".lora_A." not in name:
        return np.zeros(shape, np.float32)
    bound = 1 / np.sqrt(shape[1])
    generator = np.random.Generator(draw.philox(f"{seed}:{name}"))
    return generator.uniform(-bound, bound, shape).astype(np.float32)
