"""Keys, certificates and TLS 1.3 on both sides. Private keys are made where they are used and never travel.

A silo is who its certificate says: exactly one URI ``urn:bhasha:silo:NAME``. The hub's trust and the silo's trust
hang on the federation's own root alone, never on the authorities that the system knows.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from fl_client.config import ConfigError
from fl_client.memory import write_whole
from fl_client.silo import NAME

URN = "urn:bhasha:silo:"
GROUPS, DIGITS = 8, 4  # what people read to each other: 128 bits of the fingerprint


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new private key on P-384."""
    return ec.generate_private_key(ec.SECP384R1())


def save_key(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    """Write a private key that only this user may read; raises ``ConfigError`` where there is a file already."""
    if path.exists():
        raise ConfigError(f"{path} is there already; a key is never overwritten")
    write_private(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the private key in a file; raises ``ConfigError``."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} cannot be read as a private key; put back a copy of it"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp384r1":
        raise ConfigError(f"{path} is no key on P-384; put back the key that was made here")
    return key


def write_private(path: Path, content: bytes) -> None:
    """Write a file whole, as ``memory.write_whole`` does, that no other user may read at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")  # the file that write_whole writes and renames
    part.unlink(missing_ok=True)
    part.touch(mode=0o600, exist_ok=False)
    write_whole(path, content)


def request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """Return the request for a certificate of the silo ``name``, signed with its key, as PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN + name)])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA384())
    return signed.public_bytes(Encoding.PEM)


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of the public key (DER) of a request or of a chain's first certificate, in hex digits.

    Raises ``ConfigError`` where the text is neither.
    """
    try:
        if b"CERTIFICATE REQUEST" in pem:
            public = x509.load_pem_x509_csr(pem).public_key()
        else:
            public = x509.load_pem_x509_certificate(pem).public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError("this is neither a certificate nor a request for one") from None
    return hashlib.sha256(der).hexdigest()


def short(fingerprint: str) -> str:
    """Return the part of a fingerprint that people read to each other: 8 groups of 4 hex digits."""
    return " ".join(fingerprint[i : i + DIGITS] for i in range(0, GROUPS * DIGITS, DIGITS))


def silo_of(peercert: Mapping[str, Any] | None) -> str:
    """Return the silo that a checked certificate names (``SSLObject.getpeercert()``); '' where it names none or two."""
    names = (peercert or {}).get("subjectAltName", ())
    uris = [value for kind, value in names if kind == "URI"]
    if len(uris) != 1 or not uris[0].startswith(URN):
        return ""
    name: str = uris[0].removeprefix(URN)
    return name if NAME.fullmatch(name) else ""


def server_context(chain: Path, key: Path, trusted: Path) -> ssl.SSLContext:
    """Return the hub's side of TLS: 1.3 only, no resumption; raises ``ConfigError``.

    A stranger without a certificate gets through, as it must be able to enrol; a certificate that does not hold
    fails in the handshake, before a byte is read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.num_tickets = 0
    return _set_up(context, trusted, chain, key)


def client_context(trusted: Path, chain: Path | None, key: Path | None) -> ssl.SSLContext:
    """Return the silo's side of TLS: 1.3 only, the hub's name checked; raises ``ConfigError``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    return _set_up(context, trusted, chain, key)


def _set_up(
    context: ssl.SSLContext, trusted: Path, chain: Path | None, key: Path | None
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    try:
        context.load_verify_locations(trusted)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{trusted} cannot be used as trusted certificate: {error}") from None
    if chain:
        try:
            context.load_cert_chain(chain, key)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{chain} and {key} cannot be used together: {error}") from None
    return context
