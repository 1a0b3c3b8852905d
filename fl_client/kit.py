"""A startup kit: what a coordinator hands to a silo so that the two can meet. It holds no private key.

A zip with ``kit.json`` and a README in plain words. Its token lets one key ask once for a certificate.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import AfterValidator, Field, ValidationError

from fl_client.address import Public
from fl_client.certificates import write_private
from fl_client.config import ConfigError, Section
from fl_client.settings import sentence
from fl_client.silo import Federation, Name
from strategies.scope import CODE

CAP = 1 << 20
# What reading a zip that is none, or a damaged one, may raise.
DAMAGED = (OSError, KeyError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error)
# Why a hub turns a silo away, by the code that travels.
REFUSALS = {
    "unknown_kit": "the hub does not know this kit, or a newer one took its place; ask for a new kit",
    "expired_kit": "this kit has expired; ask the coordinator for a new one",
    "used_kit": "this kit was used with another key; if that was not you, tell the coordinator at once",
    "not_asked": "the hub has no request from this silo; run `fl-client join` again with the kit",
    "ejected": "the coordinator has ejected this silo; ask the coordinator for a new kit",
    "bad_request": "the hub cannot use this silo's request; make a new folder with `fl-client join`",
}
README = """bhasha-fl startup kit: silo {name} of the federation {federation}

Keep this file to yourself. It works once, until {expires}.
It holds no private key: yours is made on your own machine and stays there.

1. Install:    pip install '{wheel}[silo]'
               The coordinator sends you that file with this kit; Python 3.11 or newer.
2. Join:       fl-client join {file} --data FOLDER --base MODEL
               FOLDER is your text; it is read in place and never leaves. MODEL is the base model that the
               coordinator named: a folder, a GGUF file, a hub name or builtin:tiny.
3. It shows a fingerprint. Read it to the coordinator by telephone or in person, who then approves you.
4. Take part:  fl-client start

`fl-client doctor` finds what is missing and says what to do about it.
"""


def _instant(text: str) -> str:
    try:
        zone = datetime.fromisoformat(text).tzinfo
    except ValueError:
        zone = None
    if zone is None:
        raise ConfigError(f"{text!r} is no instant in ISO 8601 with its zone")
    return text


def _certificate(text: str) -> str:
    try:
        x509.load_pem_x509_certificate(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("this is no certificate") from None
    return text


def _study_key(text: str) -> str:
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise ConfigError("this is no Ed25519 public key")
    return text


def _language(text: str) -> str:
    if not CODE.fullmatch(text):
        raise ConfigError(f"{text!r} is no language code; use one such as as, or mni-Beng")
    return text


Language = Annotated[str, AfterValidator(_language)]
Instant = Annotated[str, AfterValidator(_instant)]


class Kit(Section):
    """What is in a kit. ``expires`` is ISO 8601 with its zone; ``token`` is '' once it has served."""

    federation: Federation
    address: Public
    root_pem: Annotated[str, AfterValidator(_certificate)]
    study_pub: Annotated[str, AfterValidator(_study_key)]
    name: Name
    languages: tuple[Language, ...] = Field(min_length=1)
    token: str = Field(pattern=r"^([A-Za-z0-9_-]{43})?$")
    expires: Instant


def _readme(kit: Kit, file: str) -> str:
    wheel = f"bhasha_fl-{version('bhasha-fl')}-py3-none-any.whl"
    return README.format(file=file, wheel=wheel, **kit.model_dump())


def write(path: Path, kit: Kit) -> None:
    """Write a kit that only this user may read; raises ``ConfigError`` where there is a file already."""
    if path.exists():
        raise ConfigError(f"{path} is there already; choose another --out")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("kit.json", kit.model_dump_json(indent=1))
        archive.writestr("README.txt", _readme(kit, path.name))
    write_private(path, content.getvalue())


def read(path: Path) -> Kit:
    """Return the kit in a zip; raises ``ConfigError`` where it is none, is damaged, too big or has expired."""
    kit = parse(_content(path), path)
    now = datetime.now(UTC)
    if expired(kit.expires, now):
        raise ConfigError(
            f"{path} expired on {kit.expires} and this machine's clock says"
            f" {now.isoformat(timespec='seconds')}; ask the coordinator for a new kit"
        )
    return kit


def parse(content: bytes, path: Path) -> Kit:
    """Return the kit in a ``kit.json``; raises ``ConfigError`` that names ``path``."""
    try:
        return Kit.model_validate_json(content)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is no startup kit: {sentence(error, Kit)}; ask the coordinator for a new one"
        ) from None


def expired(expires: str, now: datetime) -> bool:
    """Return whether an instant in ISO 8601 lies in the past."""
    return datetime.fromisoformat(expires) <= now


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}; give the zip that the coordinator sent")
    if path.stat().st_size > CAP:
        raise ConfigError(f"{path} is bigger than 1 MiB, so it is no startup kit")
    try:
        with zipfile.ZipFile(path) as archive, archive.open("kit.json") as stream:
            content = stream.read(CAP + 1)
    except DAMAGED as error:
        raise ConfigError(
            f"{path} is no startup kit ({type(error).__name__}); give the zip that the coordinator sent"
        ) from None
    if len(content) > CAP:
        raise ConfigError(f"{path} unpacks to more than 1 MiB, so it is no startup kit")
    return content
