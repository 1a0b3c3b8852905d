"""The federation's certificates. A root, kept offline, signs the hub's CA, which signs its server and its silos.

Silos make their own keys and send a request. Of a request only the public key counts, once its signature is
checked: name, powers and dates of the certificate are the hub's.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_client import signed
from fl_client.address import is_ip, split
from fl_client.certificates import URN, load_key, new_key, save_key
from fl_client.config import ConfigError
from fl_client.memory import write_whole
from fl_server.hub import Hub

YEAR = 365
ROOT_DAYS, CA_DAYS, SERVER_DAYS, SILO_DAYS = 10 * YEAR, 5 * YEAR, 2 * YEAR, YEAR
FILES = (
    "root.key", "root.pem", "ca.key", "ca.pem", "server.key", "server.pem", "study.key",
)  # fmt: skip
UNUSED = (
    "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
    "encipher_only", "decipher_only",
)  # fmt: skip
LOCAL = ("localhost", "127.0.0.1")
REQUEST_BYTES = 4096
Extensions = list[tuple[x509.ExtensionType, bool]]


class Issuer(NamedTuple):
    """Who signs: the name that stands in the certificate, and the key."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey


class Period(NamedTuple):
    """From when until when a certificate holds."""

    start: datetime
    end: datetime


def create(hub: Path, settings: Hub) -> None:
    """Make the keys and certificates of a new hub; raises ``ConfigError`` where one of them is there already."""
    there = [name for name in FILES if (hub / name).exists()]
    if there:
        raise ConfigError(f"{hub / there[0]} is there already and is never overwritten")
    hub.mkdir(mode=0o700, parents=True, exist_ok=True)
    hub.chmod(0o700)  # it may have been there, empty and open to all
    root = Issuer(_named(settings.name, "root"), new_key())
    ca = Issuer(_named(settings.name, "CA"), new_key())
    root_pem = _pem(build(root.name, root.key.public_key(), root, days(ROOT_DAYS), authority(1)))
    ca_pem = _pem(build(ca.name, ca.key.public_key(), root, days(CA_DAYS), authority(0)))
    server = new_key()
    leaf = build(
        _named(settings.name, "hub"),
        server.public_key(),
        ca,
        days(SERVER_DAYS),
        server_only(split(settings.address)[0]),
    )
    for name, key in (("root", root.key), ("ca", ca.key), ("server", server)):
        save_key(hub / f"{name}.key", key)
    signed.save(hub / "study.key", signed.new_key())
    write_whole(hub / "root.pem", root_pem)
    write_whole(hub / "ca.pem", ca_pem)
    write_whole(hub / "server.pem", _pem(leaf) + ca_pem)


def issue(hub: Path, csr_pem: bytes, name: str, valid_days: int = SILO_DAYS) -> bytes:
    """Return a new certificate of the silo ``name`` for the key of a request, with the CA's, as PEM.

    Raises ``ConfigError`` where the request or the hub's CA cannot be used.
    """
    public = requested(csr_pem)
    ca_pem = (hub / "ca.pem").read_bytes()
    ca = Issuer(x509.load_pem_x509_certificate(ca_pem).subject, load_key(hub / "ca.key"))
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return _pem(build(subject, public, ca, days(valid_days), silo_only(name))) + ca_pem


def requested(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """Return the public key of a request whose signature holds; raises ``ConfigError``."""
    try:
        if len(csr_pem) > REQUEST_BYTES:
            raise ValueError
        request = x509.load_pem_x509_csr(csr_pem)
        public, holds = request.public_key(), request.is_signature_valid
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("this is no request for a certificate") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp384r1":
        raise ConfigError("the request's key is not on P-384")
    if not holds:
        raise ConfigError("the request's signature does not hold")
    return public


def study_public(hub: Path) -> str:
    """Return the public key with which silos check studies, as PEM; raises ``ConfigError``."""
    public = signed.load(hub / "study.key").public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def days(count: int) -> Period:
    """Return the period of so many days from now; it starts two days early: a silo's clock may be a day behind."""
    now = datetime.now(UTC)
    return Period(now - timedelta(days=2), now + timedelta(days=count))


def build(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: Issuer,
    period: Period,
    extensions: Extensions,
) -> x509.Certificate:
    """Return a signed certificate with these extensions and the identifiers of both keys."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(period.start)
        .not_valid_after(period.end)
    )
    keys: Extensions = [
        (x509.SubjectKeyIdentifier.from_public_key(public), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), False),
    ]
    for extension, critical in [*extensions, *keys]:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hashes.SHA384())


def authority(below: int) -> Extensions:
    """Return what makes a certificate an authority with at most ``below`` authorities under it."""
    return [(x509.BasicConstraints(ca=True, path_length=below), True), (_usage(signs=True), True)]


def server_only(host: str) -> Extensions:
    """Return what makes a certificate that of the hub's server at ``host``, and of nothing else."""
    hosts = LOCAL if host in LOCAL else (host,)
    names = [x509.IPAddress(ip_address(h)) if is_ip(h) else x509.DNSName(h) for h in hosts]
    return [*_leaf(ExtendedKeyUsageOID.SERVER_AUTH), (x509.SubjectAlternativeName(names), False)]


def silo_only(name: str) -> Extensions:
    """Return what makes a certificate that of a silo, and of nothing else."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN + name)])
    return [*_leaf(ExtendedKeyUsageOID.CLIENT_AUTH), (names, False)]


def _leaf(purpose: x509.ObjectIdentifier) -> Extensions:
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(signs=False), True),
        (x509.ExtendedKeyUsage([purpose]), True),
    ]


def _usage(signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        **dict.fromkeys(UNUSED, False),
    )


def _named(federation: str, role: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, federation), (NameOID.COMMON_NAME, role))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
