"""Certificates that are renewed: later dates, the same keys, and whoever trusted the hub before trusts it still."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from socket import create_connection, create_server

import pytest
from cryptography import x509
from typer.testing import CliRunner

from fl_client import certificates
from fl_server import authority, cli, entries, hub, renewal, roster
from fl_server.gateway import server


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a hub whose certificates end in a few days, with a silo in it, and the command on it."""
    folder = tmp_path / "hub"
    settings = hub.new("Test", "localhost:8443")
    with monkeypatch.context() as patch:
        patch.setattr(authority, "SERVER_DAYS", 3)
        patch.setattr(authority, "CA_DAYS", 9)
        authority.create(folder, settings)
    hub.create(folder, settings)
    key = certificates.new_key()
    certificates.save_key(tmp_path / "silo.key", key)
    given = roster.invite(folder, "clinic", ("as",), 1)
    roster.enrol(folder, given.token, certificates.request(key, "clinic"))
    (tmp_path / "silo.pem").write_text(roster.approve(folder, "clinic").certificate)
    return folder


def renew(folder, *options):
    return CliRunner().invoke(cli.app, ["renew", "--hub", str(folder), *map(str, options)])


def ends(folder, name):
    return x509.load_pem_x509_certificate((folder / name).read_bytes()).not_valid_after_utc


def in_days(count):
    return pytest.approx((datetime.now(UTC) + timedelta(days=count)).timestamp(), abs=600)


def shaken(folder) -> str:
    """Return the name that a silo from before the renewal shows a hub that has just been started."""
    line = create_server(("127.0.0.1", 0))
    names = []

    def serve():
        with server.context(folder).wrap_socket(line.accept()[0], server_side=True) as held:
            names.extend(held.getpeercert()["subjectAltName"])
            held.sendall(b"welcome")

    served = threading.Thread(target=serve)
    served.start()
    silo = folder.parent
    context = certificates.client_context(folder / "root.pem", silo / "silo.pem", silo / "silo.key")
    with (
        line,
        context.wrap_socket(
            create_connection(line.getsockname()), server_hostname="localhost"
        ) as held,
    ):
        assert held.recv(7) == b"welcome"
    served.join()
    return names[0][1]


def test_a_servers_certificate_holds_two_years_more_and_silos_trust_it_as_before(made):
    key, before = (made / "server.key").read_bytes(), shaken(made)
    result = renew(made, "--json")
    assert result.exit_code == 0, result.output
    assert ends(made, "server.pem").timestamp() == in_days(730)
    # its CA holds no longer than before, so nobody accepts it longer
    assert datetime.fromisoformat(json.loads(result.stdout)["until"]) == ends(made, "ca.pem")
    assert ends(made, "ca.pem").timestamp() == in_days(9)
    assert (made / "server.key").read_bytes() == key
    assert shaken(made) == before == certificates.URN + "clinic"


def test_with_the_roots_key_the_ca_is_renewed_and_silos_trust_it_as_before(made, tmp_path):
    offline = tmp_path / "offline.key"
    (made / "root.key").rename(offline)
    before = shaken(made)
    result = renew(made, "--root", offline)
    assert result.exit_code == 0, result.output
    assert ends(made, "ca.pem").timestamp() == in_days(5 * 365)
    assert f"{ends(made, 'server.pem'):%Y-%m-%d}" in result.stdout
    assert shaken(made) == before


def test_a_silo_from_before_the_old_ca_ended_gets_in_after_the_renewal(made, monkeypatch):
    asked = (made / "roster" / "clinic.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(authority, "CA_DAYS", -1)
        renewal.ca(made, made / "root.key")
    held = json.loads(asked) | {"state": "requested"}
    entries.keep(made, entries.Entry.model_validate(held))
    (made.parent / "silo.pem").write_text(roster.approve(made, "clinic").certificate)
    result = renew(made, "--root", made / "root.key")
    assert result.exit_code == 0, result.output
    assert shaken(made) == certificates.URN + "clinic"


def test_a_ca_that_is_over_is_not_used_and_another_key_is_not_taken_for_the_roots(
    made, tmp_path, monkeypatch
):
    held = {name: (made / name).read_bytes() for name in ("ca.pem", "server.pem")}
    other = tmp_path / "other.key"
    certificates.save_key(other, certificates.new_key())
    refused = renew(made, "--root", other)
    assert refused.exit_code == 2 and "not the key of" in refused.stderr
    with monkeypatch.context() as patch:
        patch.setattr(authority, "CA_DAYS", -1)
        assert renew(made, "--root", made / "root.key").exit_code == 2
    result = renew(made)
    assert result.exit_code == 2 and "--root" in result.stderr and "Traceback" not in result.output
    assert (made / "server.pem").read_bytes() == held["server.pem"]
