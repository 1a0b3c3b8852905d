"""Who may take part: kits that serve once, names that are taken, silos that are out from the moment of ejection."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fl_client import certificates
from fl_client.config import ConfigError
from fl_client.kit import REFUSALS
from fl_server import authority, entries, hub, roster


@pytest.fixture
def made(tmp_path):
    folder = tmp_path / "hub"
    settings = hub.new("Test", "hub.example.org:8443")
    authority.create(folder, settings)
    hub.create(folder, settings)
    return folder


def ask(name="clinic", key=None) -> bytes:
    return certificates.request(key or certificates.new_key(), name)


def invite(folder, name="clinic", hours=1.0):
    return roster.invite(folder, name, ("as", "brx"), hours)


def take_in(folder, name="clinic") -> bytes:
    """Invite, enrol and approve a silo; return its certificate (DER)."""
    roster.enrol(folder, invite(folder, name).token, ask(name))
    return der(roster.approve(folder, name))


def der(entry) -> bytes:
    return x509.load_pem_x509_certificate(entry.certificate.encode()).public_bytes(Encoding.DER)


def refused(code, call, *arguments):
    assert code in REFUSALS
    with pytest.raises(roster.Rejected) as rejected:
        call(*arguments)
    assert rejected.value.code == code


def test_a_silo_is_invited_asks_is_approved_and_collects_its_certificate(made):
    kit = invite(made)
    assert (kit.name, kit.languages, kit.federation) == ("clinic", ("as", "brx"), "Test")
    assert kit.address == "hub.example.org:8443"
    assert roster.one(made, "clinic").state == "invited"
    key = certificates.new_key()
    entry = roster.enrol(made, kit.token, ask(key=key))
    assert entry.state == roster.collect(made, kit.token).state == "requested"
    assert entry.fingerprint == certificates.fingerprint(ask(key=key))
    assert not entry.certificate
    approved = roster.approve(made, "clinic", entry.fingerprint)
    assert roster.collect(made, kit.token) == approved == roster.read(made)["clinic"]
    issued = x509.load_pem_x509_certificate(approved.certificate.encode())
    assert issued.public_key() == key.public_key()
    assert int(approved.serial, 16) == issued.serial_number
    assert roster.admits(made, "clinic", der(approved))


def test_the_hub_keeps_neither_the_token_nor_any_key_of_a_silo(made):
    keys = {path.read_bytes() for path in made.glob("*.key")}
    kit = invite(made)
    roster.enrol(made, kit.token, ask())
    roster.approve(made, "clinic")
    files = [path for path in made.rglob("*") if path.is_file()]
    assert not [path for path in files if kit.token.encode() in path.read_bytes()]
    assert {path.read_bytes() for path in files if b"PRIVATE" in path.read_bytes()} == keys


def test_a_kit_used_twice_is_refused_unless_the_same_key_asks_again(made):
    kit, key = invite(made), certificates.new_key()
    first = roster.enrol(made, kit.token, ask(key=key))
    assert roster.enrol(made, kit.token, ask(key=key)) == first
    refused("used_kit", roster.enrol, made, kit.token, ask())
    approved = roster.approve(made, "clinic")
    assert roster.enrol(made, kit.token, ask(key=key)) == approved
    refused("used_kit", roster.enrol, made, kit.token, ask())
    assert roster.one(made, "clinic") == approved


def test_of_many_that_use_a_kit_at_once_one_gets_it(made):
    kit, outcomes = invite(made), []

    def try_it() -> None:
        try:
            outcomes.append(roster.enrol(made, kit.token, ask()).fingerprint)
        except roster.Rejected as rejected:
            outcomes.append(rejected.code)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("used_kit") == 7
    assert roster.one(made, "clinic").fingerprint in outcomes


def test_an_expired_kit_is_refused(made):
    kit = invite(made, hours=-0.01)
    refused("expired_kit", roster.enrol, made, kit.token, ask())
    assert roster.one(made, "clinic").state == "invited"


def test_a_silo_that_asked_in_time_may_be_approved_and_collect_after_its_kit_expired(made):
    kit, key = invite(made), certificates.new_key()
    roster.enrol(made, kit.token, ask(key=key))
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    roster.change(made, "clinic", lambda entry: entry.model_copy(update={"expires": past}))
    assert roster.enrol(made, kit.token, ask(key=key)).state == "requested"
    roster.approve(made, "clinic")
    assert roster.collect(made, kit.token).certificate


@pytest.mark.parametrize("token", ["", "x" * 43, "é\udcff"])
def test_a_token_that_the_hub_never_gave_is_refused(token, made):
    invite(made)
    refused("unknown_kit", roster.enrol, made, token, ask())
    refused("unknown_kit", roster.collect, made, token)


def test_the_hash_of_a_token_is_no_token(made):
    invite(made)
    refused("unknown_kit", roster.enrol, made, roster.one(made, "clinic").token_sha256, ask())


def test_nothing_can_be_collected_before_a_silo_asked(made):
    refused("not_asked", roster.collect, made, invite(made).token)


@pytest.mark.parametrize("request_", [b"", b"\xff", b"x" * 10_000])
def test_a_request_that_is_none_is_refused_and_the_kit_is_not_used_up(request_, made):
    kit = invite(made)
    refused("bad_request", roster.enrol, made, kit.token, request_)
    assert roster.enrol(made, kit.token, ask()).state == "requested"


def test_a_request_for_another_silos_name_gets_the_name_on_the_roster(made):
    take_in(made, "university")
    kit = invite(made)
    roster.enrol(made, kit.token, ask("university"))
    certificate = x509.load_der_x509_certificate(der(roster.approve(made, "clinic")))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["urn:bhasha:silo:clinic"]


@pytest.mark.parametrize("state", ["invited", "requested", "approved"])
def test_a_name_that_is_taken_is_refused_and_stays_with_who_has_it(state, made):
    kit = invite(made)
    if state != "invited":
        roster.enrol(made, kit.token, ask())
    if state == "approved":
        roster.approve(made, "clinic")
    before = roster.one(made, "clinic")
    assert before.state == state
    with pytest.raises(ConfigError, match=f"'clinic' is {state} already"):
        invite(made)
    assert roster.one(made, "clinic") == before


def test_an_ejected_silo_is_not_admitted_at_the_very_next_request(made):
    certificate = take_in(made)
    assert roster.admits(made, "clinic", certificate)
    roster.eject(made, "clinic")
    assert not roster.admits(made, "clinic", certificate)


def test_an_ejected_silo_that_is_invited_again_comes_in_with_its_new_certificate_only(made):
    old_kit, key = invite(made), certificates.new_key()
    roster.enrol(made, old_kit.token, ask(key=key))
    old = der(roster.approve(made, "clinic"))
    roster.eject(made, "clinic")
    refused("ejected", roster.enrol, made, old_kit.token, ask(key=key))
    refused("ejected", roster.collect, made, old_kit.token)
    kit = invite(made)
    refused("unknown_kit", roster.collect, made, old_kit.token)
    roster.enrol(made, kit.token, ask(key=key))
    assert not roster.admits(made, "clinic", old)
    new = der(roster.approve(made, "clinic"))
    assert roster.admits(made, "clinic", new)
    assert not roster.admits(made, "clinic", old)


def test_a_silo_is_admitted_under_its_own_name_with_its_own_certificate_only(made):
    clinic, university = take_in(made), take_in(made, "university")
    assert roster.admits(made, "university", university)
    assert not roster.admits(made, "clinic", university)
    assert not roster.admits(made, "university", clinic)
    assert not roster.admits(made, "clinic", b"")


@pytest.mark.parametrize("name", ["", "nobody", "../hub", "clinic.json", "Clinic", "clinic\n"])
def test_a_name_that_is_not_on_the_roster_is_not_admitted(name, made):
    assert not roster.admits(made, name, take_in(made))


@pytest.mark.parametrize("state", ["invited", "requested"])
def test_nobody_is_admitted_before_approval(state, made):
    certificate = take_in(made)
    roster.change(made, "clinic", lambda entry: entry.model_copy(update={"state": state}))
    assert not roster.admits(made, "clinic", certificate)


@pytest.mark.parametrize("days", [-5, 5])
def test_a_certificate_out_of_its_dates_is_not_admitted(days, made):
    take_in(made)
    ca = authority.Issuer(
        x509.load_pem_x509_certificate((made / "ca.pem").read_bytes()).subject,
        certificates.load_key(made / "ca.key"),
    )
    middle = datetime.now(UTC) + timedelta(days=days)
    odd = authority.build(
        ca.name,
        certificates.new_key().public_key(),
        ca,
        authority.Period(middle - timedelta(days=1), middle + timedelta(days=1)),
        authority.silo_only("clinic"),
    )
    pem = odd.public_bytes(Encoding.PEM).decode()
    entry = roster.change(made, "clinic", lambda e: e.model_copy(update={"certificate": pem}))
    assert not roster.admits(made, "clinic", der(entry))


@pytest.mark.parametrize(
    ("state", "words"),
    [("invited", "has not asked yet"), ("approved", "already"), ("ejected", "invite it again")],
)
def test_only_a_silo_that_asked_can_be_approved(state, words, made):
    kit = invite(made)
    if state == "approved":
        roster.enrol(made, kit.token, ask())
        roster.approve(made, "clinic")
    if state == "ejected":
        roster.eject(made, "clinic")
    before = roster.one(made, "clinic")
    with pytest.raises(ConfigError, match=words):
        roster.approve(made, "clinic")
    assert roster.one(made, "clinic") == before


def test_a_request_that_is_not_the_one_compared_is_not_approved(made):
    roster.enrol(made, invite(made).token, ask())
    with pytest.raises(ConfigError, match="has changed"):
        roster.approve(made, "clinic", certificates.fingerprint(ask()))
    assert roster.one(made, "clinic").state == "requested"


def test_who_is_not_on_the_roster_is_named_with_who_is(made):
    for call in (roster.one, roster.approve, roster.eject):
        with pytest.raises(ConfigError, match="on it: nobody yet"):
            call(made, "clinic")
    invite(made, "university")
    with pytest.raises(ConfigError, match="'clinic' is not on the roster; on it: university"):
        roster.eject(made, "clinic")


@pytest.mark.parametrize("name", ["", "Clinic", "../up", "a/b", "x" * 41, "-a", "ক"])
def test_a_name_that_cannot_be_is_refused(name, made):
    with pytest.raises(ConfigError, match="no name for a silo"):
        invite(made, name)
    assert roster.read(made) == {}


def test_a_language_that_is_named_twice_counts_once_and_one_of_no_table_stays(made):
    kit = roster.invite(made, "clinic", ("zz", "as", "as"), 1)
    assert kit.languages == roster.one(made, "clinic").languages == ("zz", "as")


@pytest.mark.parametrize("languages", [(), ("English",), ("as", "")])
def test_languages_that_cannot_be_are_refused(languages, made):
    with pytest.raises(ConfigError, match="languages"):
        roster.invite(made, "clinic", languages, 1)
    assert roster.read(made) == {}


def test_a_damaged_entry_is_named_and_shuts_out_only_its_own_silo(made):
    clinic, university = take_in(made), take_in(made, "university")
    kit = invite(made, "third")
    path = made / "roster" / "clinic.json"
    for content in (b"", b"{", b"\xff", b"{}", path.read_bytes().replace(b'"clinic"', b'"third"')):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"clinic\.json"):
            roster.read(made)
        assert not roster.admits(made, "clinic", clinic)
    assert roster.admits(made, "university", university)
    assert roster.enrol(made, kit.token, ask("third")).state == "requested"


def test_an_entry_is_a_file_that_people_can_read_with_the_time_of_its_change(made):
    before = datetime.now(UTC).replace(microsecond=0)
    invite(made)
    held = json.loads((made / "roster" / "clinic.json").read_text())
    assert held["state"] == "invited"
    assert before <= datetime.fromisoformat(held["changed"]) <= datetime.now(UTC)


def test_no_change_is_lost_where_several_change_the_roster_at_once(made):
    invite(made)

    def one_more(entry):
        seen = int(entry.serial or 0)
        time.sleep(0.002)
        return entry.model_copy(update={"serial": str(seen + 1)})

    def count_up():
        for _ in range(15):
            roster.change(made, "clinic", one_more)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert roster.one(made, "clinic").serial == "60"


def test_a_change_that_fails_leaves_the_entry_and_frees_the_lock(made):
    invite(made)

    def fail(_):
        raise ConfigError("no")

    before = entries.find(made, "clinic")
    with pytest.raises(ConfigError, match="no"):
        roster.change(made, "clinic", fail)
    assert roster.change(made, "clinic", lambda entry: entry).token_sha256 == before.token_sha256
