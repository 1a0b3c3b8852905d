"""What a silo says to its hub, over the real gateway: and when it cannot, a sentence that tells why."""

from __future__ import annotations

import hashlib
import json
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest

from fl_client import audit, contact, ports, silo, volume
from fl_client.contact import Excluded, Unproven, Unreachable
from fl_client.volume import Volume
from fl_server import authority, roster
from fl_server.gateway import seen


def moved(at: silo.Folder, **changes: object) -> None:
    """Change settings of a silo."""
    settings = silo.read(at.path).model_copy(update=changes)
    silo.write_settings(at.path, settings)


def test_the_clocks_of_one_machine_agree(joined):
    assert abs(contact.clock(joined.path)) < 5


def test_the_clock_says_by_how_much_this_machine_is_ahead(joined, monkeypatch):
    monkeypatch.setattr(contact, "_ask", lambda line: datetime.now(UTC).timestamp() - 3600)
    assert contact.clock(joined.path) == pytest.approx(3600, abs=5)


def test_what_goes_to_the_hub_directly_is_in_the_silos_record_too(joined, at):
    contact.hello(joined.path, {"cpus": 4})
    contact.probe(joined.path, 1000)
    left = list(audit.read(joined.path))
    assert any(entry.kind == "/v1/silo/hello" and entry.bytes > 10 for entry in left)
    (probe,) = (entry for entry in left if entry.kind == "/v1/silo/probe")
    assert (probe.bytes, probe.sha256) == (1000, hashlib.sha256(bytes(1000)).hexdigest())


def test_a_greeting_is_what_the_hub_then_knows(joined, at):
    contact.hello(joined.path, {"version": "0.1.0", "cpus": 3, "gpus": 0, "memory_bytes": 8 << 30})
    name = silo.read(joined.path).name
    assert seen.load(at / "seen").silos[name].hello["cpus"] == 3
    assert seen.load(at / "seen").silos[name].hello["memory_bytes"] == 8 << 30


def test_a_greeting_tells_the_text_as_it_was_last_counted(joined, at):
    volume.keep(joined.path, {"as": Volume(7, 900)})
    contact.hello(joined.path, {"cpus": 1})
    name = silo.read(joined.path).name
    assert seen.load(at / "seen").silos[name].hello["languages"] == {
        "as": {"rows": 7, "bytes": 900}
    }


def test_the_doctor_greets_as_the_policy_says_too(joined, at):
    text = joined.policy.read_text()
    joined.policy.write_text(text.replace('"languages", ', ""))
    volume.keep(joined.path, {"as": Volume(7, 900)})
    contact.hello(joined.path, {"cpus": 5})
    told = seen.load(at / "seen").silos[silo.read(joined.path).name].hello
    assert told["cpus"] == 5 and not told.get("languages")


def test_a_greeting_tells_how_many_processes_silo_toml_asks_for(joined, at):
    moved(joined, processes="3")
    contact.hello(joined.path, {"cpus": 4})
    assert seen.load(at / "seen").silos[silo.read(joined.path).name].hello["processes"] == 3


def test_a_hub_is_told_of_the_64_languages_with_most_text(tmp_path):
    volume.keep(
        tmp_path, {f"a{chr(97 + i // 26)}{chr(97 + i % 26)}": Volume(1, i) for i in range(99)}
    )
    told = volume.recall(tmp_path)
    assert len(told) == 64
    assert min(row["bytes"] for row in told.values()) == 35


def test_a_probe_of_more_than_the_hub_takes_at_once_goes_in_pieces(joined, monkeypatch):
    sent: list[int] = []
    really = contact._send
    monkeypatch.setattr(contact, "_send", lambda line, n: (sent.append(n), really(line, n)))
    assert contact.probe(joined.path, (5 << 20) // 2) > 10_000
    assert sent == [1 << 20, 1 << 20, 1 << 19]


def test_the_handshake_does_not_count_as_time_of_the_line(joined, monkeypatch):
    took = iter([0.1, 0.1, 0.1, 1.1])
    monkeypatch.setattr(contact, "_timed", lambda work: next(took))
    assert contact.probe(joined.path, 1 << 20) == pytest.approx(1 << 20)


@pytest.mark.parametrize(
    "call", [contact.clock, lambda f: contact.probe(f, 10), lambda f: contact.hello(f, {})]
)
def test_a_hub_that_does_not_run_is_out_of_reach(joined, call):
    moved(joined, address=f"127.0.0.1:{ports.free()}")
    with pytest.raises(
        Unreachable, match="cannot be reached .*refused.*; check this machine's network"
    ):
        call(joined.path)


def test_a_name_that_nobody_has_is_out_of_reach(joined):
    moved(joined, address="hub.invalid:443")
    with pytest.raises(Unreachable, match="hub.invalid:443 cannot be reached"):
        contact.clock(joined.path)


def test_a_hub_of_another_federation_does_not_prove_itself(joined, stranger):
    _, other = stranger()
    joined.root.write_bytes(other.root.read_bytes())
    with pytest.raises(
        Unproven, match="does not prove that it is this federation's hub .*; check address"
    ):
        contact.clock(joined.path)


def test_a_hub_reached_by_another_name_does_not_prove_itself(joined):
    port = silo.read(joined.path).address.rpartition(":")[2]
    moved(joined, address=f"127.0.0.2:{port}")
    with pytest.raises(Unproven, match="127.0.0.2.* does not prove .*mismatch"):
        contact.clock(joined.path)


def test_an_ejected_silo_is_told_so(joined, at):
    roster.eject(at, silo.read(joined.path).name)
    with pytest.raises(
        Excluded, match="does not let this silo in: it is ejected.*; ask the coordinator"
    ):
        contact.clock(joined.path)


def test_a_certificate_of_another_federation_is_turned_down(joined, stranger):
    _, other = stranger()
    joined.certificate.write_bytes(other.certificate.read_bytes())
    joined.key.write_bytes(other.key.read_bytes())
    with pytest.raises(Excluded, match="hangs up as soon as it sees this silo's certificate"):
        contact.clock(joined.path)


def test_an_expired_certificate_is_turned_down(joined, at, monkeypatch):
    then = datetime.now(UTC) - timedelta(days=9)
    period = authority.Period(then, then + timedelta(days=1))
    monkeypatch.setattr(authority, "days", lambda count: period)
    name = silo.read(joined.path).name
    request = roster.one(at, name).request.encode()
    joined.certificate.write_bytes(authority.issue(at, request, name))
    with pytest.raises(Excluded, match="hangs up as soon as it sees this silo's certificate"):
        contact.clock(joined.path)


def test_without_a_certificate_nobody_is_asked(joined):
    joined.certificate.unlink()
    with pytest.raises(Excluded, match="there is no .*silo.pem.*; wait until the coordinator"):
        contact.clock(joined.path)


def test_what_answers_without_tls_is_no_hub(joined):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        moved(joined, address=f"127.0.0.1:{listener.getsockname()[1]}")

        def answer() -> None:
            line, _ = listener.accept()
            with line:
                line.recv(1000)
                line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unproven, match="speaks no TLS 1.3; check address"):
            contact.clock(joined.path)
        thread.join()


def test_a_hub_that_speaks_otherwise_is_none(joined, at, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda *_, **__: {"no": "time"})
    with pytest.raises(Unproven, match="speaks otherwise than a hub"):
        contact.clock(joined.path)


def test_a_line_that_breaks_off_is_out_of_reach(joined, at):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(at / "server.pem", at / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        moved(joined, address=f"127.0.0.1:{listener.getsockname()[1]}")

        def answer() -> None:
            for _ in range(3):
                line, _ = listener.accept()
                with context.wrap_socket(line, server_side=True) as held:
                    held.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unreachable, match="cannot be reached"):
            contact.clock(joined.path)
        thread.join()
