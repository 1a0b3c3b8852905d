"""Arrays in a file that knows its own checksum: a bit that turned on disk is seen when they are read.

The checksum stands in the metadata of a safetensors file, so that everything else that reads such files reads these.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from strategies.adapter import Adapter

SEAL = "sha256"


def seal(arrays: Adapter) -> bytes:
    """Return the file of these arrays."""
    content: bytes = save(arrays, metadata={SEAL: _sha256(arrays)})
    return content


def open_(content: bytes) -> Adapter:
    """Return the arrays of a file; raises ``ValueError`` where it is damaged. One without a seal is taken as it is."""
    try:
        arrays: Adapter = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"it cannot be read: {error}") from None
    if "__metadata__" in header and header["__metadata__"] != {SEAL: _sha256(arrays)}:
        raise ValueError("its checksum does not fit")
    return arrays


def _sha256(arrays: Adapter) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{len(name)}:{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
