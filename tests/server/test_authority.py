"""The federation's certificates: what each is good for, and that a request decides nothing but its key."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_client import certificates
from fl_client.config import ConfigError
from fl_server import authority, hub

URI = "urn:bhasha:silo:clinic"


def make(folder, address="hub.example.org:8443"):
    authority.create(folder, hub.new("Test", address))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("made") / "hub")


def load(folder, name) -> x509.Certificate:
    return x509.load_pem_x509_certificate((folder / name).read_bytes())


def has(certificate, kind):
    return certificate.extensions.get_extension_for_class(kind).value


def ask(key, *extensions, name="clinic", sign_with=None) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA384()
    return builder.sign(key, digest).public_bytes(Encoding.PEM)


def issued(folder, request) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.issue(folder, request, "clinic"))


def test_a_new_hub_has_its_keys_for_its_user_alone(made):
    assert {path.name for path in made.iterdir()} == set(authority.FILES)
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for path in made.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_was_there_is_for_its_user_alone_once_it_holds_keys(tmp_path):
    tmp_path.chmod(0o755)
    assert stat.S_IMODE(make(tmp_path).stat().st_mode) == 0o700


@pytest.mark.parametrize("name", authority.FILES)
def test_no_key_or_certificate_is_ever_overwritten(name, tmp_path):
    (tmp_path / name).write_text("dear")
    with pytest.raises(ConfigError, match=f"{name} is there already"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "dear"


def test_each_certificate_is_signed_by_the_one_above_it(made):
    root, ca, server = (load(made, f"{name}.pem") for name in ("root", "ca", "server"))
    root.verify_directly_issued_by(root)
    ca.verify_directly_issued_by(root)
    server.verify_directly_issued_by(ca)
    chain = x509.load_pem_x509_certificates((made / "server.pem").read_bytes())
    assert chain == [server, ca]


def test_only_root_and_ca_are_authorities_and_none_stands_below_the_ca(made):
    root, ca, server = (load(made, f"{name}.pem") for name in ("root", "ca", "server"))
    assert has(root, x509.BasicConstraints) == x509.BasicConstraints(True, 1)
    assert has(ca, x509.BasicConstraints) == x509.BasicConstraints(True, 0)
    assert has(server, x509.BasicConstraints) == x509.BasicConstraints(False, None)
    assert [has(c, x509.KeyUsage).key_cert_sign for c in (root, ca, server)] == [True, True, False]


def test_certificates_hold_as_long_as_they_should_from_two_days_ago_as_a_silos_clock_may_be_behind(
    made,
):
    request = certificates.request(certificates.new_key(), "clinic")
    now = datetime.now(UTC)
    for certificate, days in (
        (load(made, "root.pem"), 3650),
        (load(made, "ca.pem"), 1825),
        (load(made, "server.pem"), 730),
        (issued(made, request), 365),
    ):
        for said, meant in (
            (certificate.not_valid_before_utc, now - timedelta(days=2)),
            (certificate.not_valid_after_utc, now + timedelta(days=days)),
        ):
            assert abs(said - meant) < timedelta(hours=1)


@pytest.mark.parametrize(
    ("address", "names"),
    [
        ("hub.example.org:8443", ["hub.example.org"]),
        ("192.0.2.7:8443", [ip_address("192.0.2.7")]),
        ("[2001:db8::7]:8443", [ip_address("2001:db8::7")]),
        ("localhost:8443", ["localhost", ip_address("127.0.0.1")]),
        ("127.0.0.1:8443", ["localhost", ip_address("127.0.0.1")]),
    ],
)
def test_the_server_is_named_by_its_public_address_and_by_nothing_else(address, names, tmp_path):
    server = load(make(tmp_path / "hub", address), "server.pem")
    assert [name.value for name in has(server, x509.SubjectAlternativeName)] == names
    assert list(has(server, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_a_silo_gets_a_certificate_for_its_own_key_that_is_good_as_a_client_only(made):
    key = certificates.new_key()
    pem = authority.issue(made, certificates.request(key, "clinic"), "clinic")
    silo, ca = x509.load_pem_x509_certificates(pem)
    assert ca == load(made, "ca.pem")
    silo.verify_directly_issued_by(ca)
    assert silo.public_key() == key.public_key()
    assert list(has(silo, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert has(silo, x509.SubjectAlternativeName) == x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier(URI)]
    )
    assert b"PRIVATE" not in pem


def test_the_hub_issues_without_the_root_key_which_lies_elsewhere(tmp_path):
    folder = make(tmp_path / "hub")
    (folder / "root.key").unlink()
    request = certificates.request(certificates.new_key(), "clinic")
    issued(folder, request).verify_directly_issued_by(load(folder, "ca.pem"))


def test_a_request_that_asks_for_another_name_or_for_powers_gets_neither(made):
    wishes = (
        x509.BasicConstraints(ca=True, path_length=3),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier("urn:bhasha:silo:university"),
                x509.DNSName("hub.example.org"),
            ]
        ),
    )
    plain, greedy = (
        issued(made, ask(certificates.new_key(), *wanted, name=name))
        for wanted, name in (((), "clinic"), (wishes, "university"))
    )
    assert greedy.subject == plain.subject
    assert [e.oid for e in greedy.extensions] == [e.oid for e in plain.extensions]
    assert has(greedy, x509.BasicConstraints) == x509.BasicConstraints(False, None)
    assert list(has(greedy, x509.ExtendedKeyUsage)) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    names = has(greedy, x509.SubjectAlternativeName)
    assert [name.value for name in names] == [URI]
    assert not has(greedy, x509.KeyUsage).key_cert_sign


def test_two_certificates_for_one_request_differ(made):
    request = certificates.request(certificates.new_key(), "clinic")
    assert issued(made, request).serial_number != issued(made, request).serial_number


def broken_signature() -> bytes:
    request = x509.load_pem_x509_csr(certificates.request(certificates.new_key(), "clinic"))
    der = bytearray(request.public_bytes(Encoding.DER))
    der[-3] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


def another_key_under_the_signature() -> bytes:
    mine, theirs = (
        x509.load_pem_x509_csr(certificates.request(certificates.new_key(), "clinic"))
        for _ in range(2)
    )
    der = mine.public_bytes(Encoding.DER)
    own, other = (
        request.public_key().public_numbers().x.to_bytes(48, "big")
        + request.public_key().public_numbers().y.to_bytes(48, "big")
        for request in (mine, theirs)
    )
    assert own in der
    return x509.load_der_x509_csr(der.replace(own, other)).public_bytes(Encoding.PEM)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (lambda: b"", "no request"),
        (lambda: b"\xff\xfe", "no request"),
        (
            lambda: (
                b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"
            ),
            "no request",
        ),
        (lambda: certificates.request(certificates.new_key(), "clinic") * 20, "no request"),
        (lambda: ask(ec.generate_private_key(ec.SECP256R1())), "P-384"),
        (lambda: ask(rsa.generate_private_key(65537, 2048)), "P-384"),
        (lambda: ask(ed25519.Ed25519PrivateKey.generate()), "P-384"),
        (broken_signature, "signature does not hold"),
        (another_key_under_the_signature, "signature does not hold"),
    ],
)
def test_a_request_that_cannot_be_trusted_is_refused(request_, words, made):
    with pytest.raises(ConfigError, match=words):
        authority.issue(made, request_(), "clinic")


def test_the_study_key_is_an_ed25519_key_of_its_own(made):
    assert isinstance(
        load_pem_public_key(authority.study_public(made).encode()), ed25519.Ed25519PublicKey
    )


def test_a_missing_study_key_is_a_plain_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"study\.key cannot be read"):
        authority.study_public(tmp_path)
