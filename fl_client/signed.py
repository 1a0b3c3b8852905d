"""A study as the hub signed it: what silos check before anything of it is done.

The signature covers the very text that is parsed, so there is nothing to put into a canonical form at the silo.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from fl_client import certificates
from fl_client.config import ConfigError, Scalar, Study, flat, from_flat

MARK = b"bhasha-fl study\n"  # what is signed with this key for a study can stand for nothing else
LARGEST = 1 << 18  # bytes of an envelope


class Signed(NamedTuple):
    """A study whose signature holds: of which federation, run by which bundle, asked of which silos."""

    study: Study
    federation: str
    bundle: str  # SHA-256 of the app bundle
    silos: tuple[str, ...]
    made: str  # ISO time by the hub's clock; nothing rests on it


def new_key() -> Ed25519PrivateKey:
    """Return a new key to sign studies with."""
    return Ed25519PrivateKey.generate()


def save(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a key that only this user may read; raises ``ConfigError`` where there is a file already."""
    certificates.save_key(path, key)


def load(path: Path) -> Ed25519PrivateKey:
    """Return the key in a file; raises ``ConfigError``."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} cannot be read as a key; put back a copy of it") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(
            f"{path} is no key for studies; put back the one that was made with the hub"
        )
    return key


def carried(study: Study) -> dict[str, Scalar]:
    """Return the study as a Flower run carries it: every key, without the folder of this machine."""
    return flat(study) | {"home": ""}


def sign(
    key: Ed25519PrivateKey, federation: str, study: Study, bundle_sha256: str, silos: Sequence[str]
) -> bytes:
    """Return the envelope of a study: its text and the signature over it."""
    said = {
        "study": carried(study),
        "federation": federation,
        "bundle": bundle_sha256,
        "silos": list(silos),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(said, sort_keys=True)
    signature = base64.b64encode(key.sign(MARK + text.encode())).decode()
    return json.dumps({"signed": text, "signature": signature}).encode()


def open_(envelope: bytes, public_pem: bytes) -> Signed:
    """Return the study in an envelope; raises ``ConfigError`` on a wrong signature or a study of another version."""
    public = _public(public_pem)
    try:
        outer = _table(envelope, {"signed", "signature"})
        text = str(outer["signed"]).encode()
        public.verify(base64.b64decode(str(outer["signature"]), validate=True), MARK + text)
    except (ValueError, binascii.Error, InvalidSignature):
        raise ConfigError("the study is not signed by this federation's hub") from None
    try:
        said = _table(text, {"study", "federation", "bundle", "silos", "made"})
        study = from_flat(_whole(dict(said["study"])))
        silos = tuple(str(name) for name in said["silos"])
        return Signed(study, str(said["federation"]), str(said["bundle"]), silos, str(said["made"]))
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"the signed study cannot be used here: {error}; hub and silo need the same version"
        ) from None


def _whole(pairs: dict[str, Any]) -> dict[str, Any]:
    missing = sorted(set(flat(Study())) - set(pairs))
    if missing:  # a default of ours is not what the hub means
        raise ValueError(f"it says nothing of {missing[0]}")
    return pairs


def _public(pem: bytes) -> Ed25519PublicKey:
    try:
        public = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, Ed25519PublicKey):
        raise ConfigError("the hub's public key for studies cannot be read; it is in the kit")
    return public


def _table(text: bytes, keys: set[str]) -> dict[str, Any]:
    if len(text) > LARGEST:
        raise ValueError(f"{len(text)} bytes are too many")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict) or set(found) != keys:
        raise ValueError(f"not a table of {', '.join(sorted(keys))}")
    return found
