"""Certificates and TLS, by real handshakes on loopback: the good are let in, every bad certificate is refused."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_client import certificates
from fl_client.config import ConfigError
from fl_server import authority, hub
from fl_server.authority import Issuer, Period

HOST = "127.0.0.1"
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
EXPIRED = Period(NOW - 9 * DAY, NOW - DAY)
TOO_EARLY = Period(NOW + DAY, NOW + 9 * DAY)


class Shown(NamedTuple):
    """What one side shows in the handshake: a chain and its key."""

    chain: Path
    key: Path


class House(NamedTuple):
    """A hub's folder, its CA as a signer, and a place for more certificates."""

    hub: Path
    ca: Issuer
    place: Path

    @property
    def root(self) -> Path:
        return self.hub / "root.pem"


def found(place: Path, name: str = "Test") -> House:
    folder = place / "hub"
    authority.create(folder, hub.new(name, f"{HOST}:1"))
    ca = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    return House(folder, Issuer(ca.subject, certificates.load_key(folder / "ca.key")), place)


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> House:
    return found(tmp_path_factory.mktemp("house"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> House:
    return found(tmp_path_factory.mktemp("other"))


def called(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def show(place: Path, content: bytes, key: ec.EllipticCurvePrivateKey) -> Shown:
    name = f"{len(list(place.iterdir()))}"
    chain, key_file = place / f"{name}.pem", place / f"{name}.key"
    chain.write_bytes(content)
    certificates.save_key(key_file, key)
    return Shown(chain, key_file)


def leaf(house, extensions, period=None, issuer=None, below=None, subject="leaf") -> Shown:
    """Return a certificate as the CA (or another issuer) makes it, with what stands below the root in its chain."""
    key = certificates.new_key()
    made = authority.build(
        called(subject),
        key.public_key(),
        issuer or house.ca,
        period or authority.days(1),
        extensions,
    )
    chain = (house.hub / "ca.pem").read_bytes() if below is None else below
    return show(house.place, pem(made) + chain, key)


def silo(house, **changes) -> Shown:
    return leaf(house, authority.silo_only("clinic"), **changes)


def server(house, host=HOST, **changes) -> Shown:
    return leaf(house, authority.server_only(host), **changes)


def for_mail(extensions):
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    return [(usage, c) if isinstance(e, x509.ExtendedKeyUsage) else (e, c) for e, c in extensions]


def self_signed(house, extensions) -> Shown:
    key = certificates.new_key()
    own = Issuer(called("clinic"), key)
    made = authority.build(own.name, key.public_key(), own, authority.days(1), extensions)
    return show(house.place, pem(made), key)


def by_a_leaf(house, extensions, signer: Shown) -> Shown:
    """Return a certificate that a holder of a leaf signed, as if it were an authority."""
    subject = x509.load_pem_x509_certificate(signer.chain.read_bytes()).subject
    issuer = Issuer(subject, certificates.load_key(signer.key))
    return leaf(house, extensions, issuer=issuer, below=signer.chain.read_bytes())


def by_a_forger(house, extensions) -> Shown:
    """Return a certificate under a CA of the same name, with another key, whose own certificate is self-signed."""
    forger = Issuer(house.ca.name, certificates.new_key())
    made = authority.build(
        forger.name,
        forger.key.public_key(),
        forger,
        authority.days(1),
        authority.authority(0),
    )
    return leaf(house, extensions, issuer=forger, below=pem(made))


def too_deep(house, extensions) -> Shown:
    """Return a certificate under an authority that the CA may not have below itself."""
    below = Issuer(called("deeper"), certificates.new_key())
    made = authority.build(
        below.name,
        below.key.public_key(),
        house.ca,
        authority.days(1),
        authority.authority(0),
    )
    chain = pem(made) + (house.hub / "ca.pem").read_bytes()
    return leaf(house, extensions, issuer=below, below=chain)


def under_an_expired_ca(house, extensions) -> Shown:
    root = x509.load_pem_x509_certificate(house.root.read_bytes())
    signer = Issuer(root.subject, certificates.load_key(house.hub / "root.key"))
    old = Issuer(called("old"), certificates.new_key())
    made = authority.build(old.name, old.key.public_key(), signer, EXPIRED, authority.authority(0))
    return leaf(house, extensions, issuer=old, below=pem(made))


def with_a_changed_byte(house, extensions) -> Shown:
    shown = leaf(house, extensions)
    first, *rest = x509.load_pem_x509_certificates(shown.chain.read_bytes())
    der = bytearray(first.public_bytes(Encoding.DER))
    der[-3] ^= 1  # within the signature
    changed = x509.load_der_x509_certificate(bytes(der))
    shown.chain.write_bytes(pem(changed) + b"".join(map(pem, rest)))
    return shown


def old_tls(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def meet(hub_side: ssl.SSLContext, silo_side: ssl.SSLContext, host: str = HOST) -> str:
    """Return the silo that the hub saw, as the silo reads it from the hub; '' where either refused the other."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(10)

        def answer() -> None:
            line, _ = listener.accept()
            line.settimeout(10)
            try:
                with hub_side.wrap_socket(line, server_side=True) as tls:
                    tls.sendall(f"you are {certificates.silo_of(tls.getpeercert())}".encode())
            except OSError:
                line.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as line,
                silo_side.wrap_socket(line, server_hostname=host) as tls,
            ):
                return tls.recv(100).decode()
        except OSError:
            return ""
        finally:
            thread.join()


def hub_side(house, shown: Shown | None = None) -> ssl.SSLContext:
    shown = shown or Shown(house.hub / "server.pem", house.hub / "server.key")
    return certificates.server_context(shown.chain, shown.key, house.root)


def silo_side(house, shown: Shown | None) -> ssl.SSLContext:
    return certificates.client_context(house.root, *(shown or (None, None)))


def test_a_silo_and_its_hub_accept_each_other(house):
    assert meet(hub_side(house), silo_side(house, silo(house))) == "you are clinic"
    assert meet(hub_side(house, server(house)), silo_side(house, silo(house))) == "you are clinic"


def test_a_stranger_without_a_certificate_gets_through_as_nobody_so_that_it_can_enrol(house):
    assert meet(hub_side(house), silo_side(house, None)) == "you are "


def test_nothing_older_than_tls_1_3_is_spoken_and_no_session_is_resumed(house):
    shown = silo(house)
    for context in (hub_side(house), silo_side(house, shown)):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_3
    assert hub_side(house).num_tickets == 0
    assert hub_side(house).verify_mode == ssl.CERT_OPTIONAL
    assert silo_side(house, shown).verify_mode == ssl.CERT_REQUIRED
    assert silo_side(house, shown).check_hostname


CLINIC = authority.silo_only("clinic")
SERVER = authority.server_only(HOST)
BAD_SILOS = {
    "of another federation": lambda house, other: silo(other),
    "self-signed with the right name": lambda house, other: self_signed(house, CLINIC),
    "expired": lambda house, other: silo(house, period=EXPIRED),
    "not yet valid": lambda house, other: silo(house, period=TOO_EARLY),
    "the hub's own": lambda house, other: Shown(house.hub / "server.pem", house.hub / "server.key"),
    "a server's with a silo's name": lambda house, other: leaf(house, [*SERVER[:3], CLINIC[-1]]),
    "for mail": lambda house, other: leaf(house, for_mail(CLINIC)),
    "without the CA between": lambda house, other: silo(house, below=b""),
    "signed by another silo": lambda house, other: by_a_leaf(house, CLINIC, silo(house)),
    "under a forged CA": lambda house, other: by_a_forger(house, CLINIC),
    "under an authority too deep": lambda house, other: too_deep(house, CLINIC),
    "under an expired CA": lambda house, other: under_an_expired_ca(house, CLINIC),
    "with a changed byte": lambda house, other: with_a_changed_byte(house, CLINIC),
    "the CA's own": lambda house, other: Shown(house.hub / "ca.pem", house.hub / "ca.key"),
}
BAD_HUBS = {
    "of another federation": lambda house, other: server(other),
    "self-signed with the right name": lambda house, other: self_signed(house, SERVER),
    "expired": lambda house, other: server(house, period=EXPIRED),
    "not yet valid": lambda house, other: server(house, period=TOO_EARLY),
    "a silo's": lambda house, other: silo(house),
    "a silo's with the server's name": lambda house, other: leaf(house, [*CLINIC[:3], SERVER[-1]]),
    "for mail": lambda house, other: leaf(house, for_mail(SERVER)),
    "without the CA between": lambda house, other: server(house, below=b""),
    "signed by a silo": lambda house, other: by_a_leaf(house, SERVER, silo(house)),
    "under a forged CA": lambda house, other: by_a_forger(house, SERVER),
    "under an authority too deep": lambda house, other: too_deep(house, SERVER),
    "under an expired CA": lambda house, other: under_an_expired_ca(house, SERVER),
    "with a changed byte": lambda house, other: with_a_changed_byte(house, SERVER),
    "the CA's own": lambda house, other: Shown(house.hub / "ca.pem", house.hub / "ca.key"),
    "of another address": lambda house, other: server(house, host="127.0.0.9"),
    "of another name": lambda house, other: server(house, host="hub.example.org"),
    "that names no host": lambda house, other: leaf(house, SERVER[:3]),
}


@pytest.mark.parametrize("case", BAD_SILOS)
def test_the_hub_refuses_a_silo_whose_certificate_is(case, house, other):
    shown = BAD_SILOS[case](house, other)
    assert meet(hub_side(house), silo_side(house, shown)) == ""


@pytest.mark.parametrize("case", BAD_HUBS)
def test_a_silo_refuses_a_hub_whose_certificate_is(case, house, other):
    shown = BAD_HUBS[case](house, other)
    assert meet(hub_side(house, shown), silo_side(house, silo(house))) == ""


def test_the_hub_refuses_a_silo_that_speaks_tls_1_2(house):
    assert meet(hub_side(house), old_tls(silo_side(house, silo(house)))) == ""


def test_a_silo_refuses_a_hub_that_speaks_tls_1_2(house):
    assert meet(old_tls(hub_side(house)), silo_side(house, silo(house))) == ""


def test_a_silo_refuses_its_hub_under_a_name_that_is_not_in_the_certificate(house):
    assert meet(hub_side(house), silo_side(house, silo(house)), host="localhost") != ""
    assert meet(hub_side(house), silo_side(house, silo(house)), host="hub.example.org") == ""


def test_a_host_that_stands_in_the_subject_only_does_not_count(house):
    named = leaf(house, SERVER[:3], subject="localhost")
    assert meet(hub_side(house, named), silo_side(house, silo(house)), host="localhost") == ""


def test_the_authorities_that_the_system_knows_are_not_trusted(house):
    root = x509.load_pem_x509_certificate(house.root.read_bytes())
    for context in (hub_side(house), silo_side(house, None)):
        assert context.get_ca_certs(binary_form=True) == [root.public_bytes(Encoding.DER)]


def test_a_silo_cannot_show_the_certificate_of_another_without_its_key(house):
    mine, theirs = silo(house), silo(house)
    with pytest.raises(ConfigError, match="cannot be used together"):
        certificates.client_context(house.root, theirs.chain, mine.key)


@pytest.mark.parametrize("missing", ["root.pem", "server.pem", "server.key"])
def test_a_missing_certificate_is_a_plain_sentence(missing, house, tmp_path):
    paths = {
        name: (tmp_path if name == missing else house.hub) / name
        for name in ("server.pem", "server.key", "root.pem")
    }
    with pytest.raises(ConfigError, match="cannot be used"):
        certificates.server_context(*paths.values())


@pytest.mark.parametrize(
    ("names", "silo"),
    [
        ([("URI", "urn:bhasha:silo:clinic-2")], "clinic-2"),
        ([("URI", "urn:bhasha:silo:a"), ("URI", "urn:bhasha:silo:b")], ""),
        ([("URI", "urn:bhasha:silo:a"), ("URI", "https://x.example")], ""),
        ([("DNS", "urn:bhasha:silo:a")], ""),
        ([("DNS", "hub.example.org")], ""),
        ([("URI", "urn:other:silo:a")], ""),
        ([("URI", "urn:bhasha:silo:")], ""),
        ([("URI", "urn:bhasha:silo:../up")], ""),
        ([("URI", "urn:bhasha:silo:A")], ""),
        ([("URI", "urn:bhasha:silo:a\n")], ""),
        ([("URI", "urn:bhasha:silo:" + "a" * 41)], ""),
    ],
)
def test_a_certificate_names_exactly_one_silo_or_nobody(names, silo):
    assert certificates.silo_of({"subjectAltName": tuple(names)}) == silo


@pytest.mark.parametrize("nothing", [None, {}, {"subjectAltName": ()}])
def test_no_certificate_is_nobody(nothing):
    assert certificates.silo_of(nothing) == ""


def test_a_key_is_for_its_user_alone_and_never_overwritten(tmp_path):
    path = tmp_path / "silo.key"
    certificates.save_key(path, certificates.new_key())
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="never overwritten"):
        certificates.save_key(path, certificates.new_key())
    assert path.read_bytes() == before
    assert certificates.load_key(path).curve.name == "secp384r1"


def test_a_private_file_is_private_even_where_a_broken_write_left_an_open_one(tmp_path):
    left = tmp_path / "silo.key.part"
    left.write_text("half")
    left.chmod(0o644)
    certificates.write_private(tmp_path / "silo.key", b"secret")
    assert stat.S_IMODE((tmp_path / "silo.key").stat().st_mode) == 0o600
    assert (tmp_path / "silo.key").read_bytes() == b"secret"
    assert not left.exists()


def test_a_file_that_is_no_key_on_p384_is_refused(tmp_path):
    (tmp_path / "text").write_text("no key")
    certificates.save_key(tmp_path / "ed25519", ed25519.Ed25519PrivateKey.generate())
    certificates.save_key(tmp_path / "p256", ec.generate_private_key(ec.SECP256R1()))
    for name in ("missing", "text", "ed25519", "p256"):
        with pytest.raises(ConfigError, match=name):
            certificates.load_key(tmp_path / name)


def test_a_request_and_its_certificate_have_the_fingerprint_of_the_key(house):
    key = certificates.new_key()
    asked = certificates.request(key, "clinic")
    issued = authority.issue(house.hub, asked, "clinic")
    assert certificates.fingerprint(asked) == certificates.fingerprint(issued)
    assert certificates.fingerprint(asked) != certificates.fingerprint(
        certificates.request(certificates.new_key(), "clinic")
    )
    for nothing in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(ConfigError, match="neither"):
            certificates.fingerprint(nothing)


def test_people_read_eight_groups_of_four_digits():
    assert certificates.short("0123456789abcdef" * 4) == " ".join(["0123 4567 89ab cdef"] * 2)
