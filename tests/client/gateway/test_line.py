"""The line to the hub: what passes, what the SuperNode sees of a broken one, and that there is no other way out."""

from __future__ import annotations

import hashlib
import logging
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from fl_client import audit, fleet, heard, ports
from fl_client.gateway import exchange, link, runs, sending, upload
from fl_client.gateway.link import Patience
from fl_client.silo import Folder
from fl_server import authority
from fl_server import hub as hubs
from fl_server.gateway import limits

RUN = 7
OPAQUE = sorted(
    set(fleet.PATHS)
    - {fleet.PULL_MESSAGES, fleet.GET_RUN, fleet.GET_FAB, fleet.PUSH_MESSAGES, fleet.PUSH_OBJECT}
)


@pytest.fixture
def hasty(monkeypatch):
    """Shorten how long a broken line is tried."""
    monkeypatch.setattr(exchange, "PATIENT", Patience(1.5, 2.0))
    monkeypatch.setattr(exchange, "SHORT", Patience(0.1, 0.3))
    monkeypatch.setattr(runs, "QUICK", Patience(0.1, 0.3))
    monkeypatch.setattr(link, "AGAIN_S", 0.1)


@pytest.mark.parametrize("path", OPAQUE)
def test_a_call_and_its_answer_pass_byte_for_byte(hub, clinic, path):
    hub.answers[path] = lambda body: (200, b"answer to " + body)
    back = clinic.post(path, b"\x00\xff call", **{"flwr-public-key": "thrown away"})
    assert (back.status_code, back.content) == (200, b"answer to \x00\xff call")
    (got,) = hub.got
    assert (got.method, got.path, got.body) == ("POST", path, b"\x00\xff call")
    assert got.headers["content-type"] == fleet.MEDIA
    assert not [name for name in got.headers if name.startswith("flwr")]


def test_an_empty_answer_to_a_pull_passes(hub, clinic):
    assert not clinic.call(fleet.PULL_MESSAGES).messages_list
    assert hub.paths() == [fleet.PULL_MESSAGES]


@pytest.mark.parametrize(
    "path",
    [
        "/", "/v1/fleet", "/v1/fleet/", "/v1/fleet/get-run/", "/v1/fleet/stream", "/v1/control/start-run",
        "/v1/runtime/pull-task-input", "/openapi.json", "/v1/fleet/../control/x", "/v1/fleet/%67et-run",
        "/v1/fleet/pull-messages?x=1", "/v1/silo/hello", "/v1/silo/refuse", "//v1/fleet/get-run",
    ],
)  # fmt: skip
def test_no_other_path_passes(hub, clinic, path):
    with socket.create_connection(("127.0.0.1", clinic.port)) as line:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        line.sendall(head.encode())
        assert line.makefile("rb").readline().split()[1] == b"404"
    assert not hub.got


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_no_other_method_passes(hub, clinic, method):
    url = f"http://127.0.0.1:{clinic.port}{fleet.PULL_MESSAGES}"
    assert clinic.client.request(method, url).status_code == 404
    assert not hub.got


@pytest.mark.parametrize(
    "status", [201, 204, 302, 307, 400, 401, 404, 408, 411, 413, 429, 500, 507]
)
def test_what_the_supernode_would_give_up_at_becomes_503(hub, clinic, status):
    hub.answers[fleet.PULL_OBJECT] = lambda _: (status, b"")
    assert clinic.call(fleet.PULL_OBJECT, run_id=RUN) == 503
    assert len(hub.got) == 1


def test_a_403_passes_where_the_supernode_then_drops_a_message(hub, clinic):
    for path in (fleet.PULL_MESSAGES, fleet.PULL_OBJECT, fleet.CONFIRM):
        hub.answers[path] = lambda _: (403, b"not for you")
        back = clinic.post(path, fleet.asking(path, node={"node_id": 1}))
        assert (back.status_code, back.content) == (403, b"")


@pytest.mark.parametrize("path", [fleet.REGISTER, fleet.ACTIVATE, fleet.HEARTBEAT])
def test_a_403_becomes_503_where_it_would_end_the_supernode(hub, clinic, path):
    hub.answers[path] = lambda _: (403, b"")
    assert clinic.post(path).status_code == 503


def test_a_401_to_a_heartbeat_passes_as_it_has_the_supernode_start_anew(hub, clinic):
    for path in fleet.PATHS:
        hub.answers[path] = lambda _: (401, b"")
    said = {path: clinic.post(path, fleet.asking(path)).status_code for path in OPAQUE}
    assert said == dict.fromkeys(OPAQUE, 503) | {fleet.HEARTBEAT: 401}


def test_each_call_of_the_supernode_is_noted_also_while_the_hub_is_away(hub, clinic, world, hasty):
    world.run(hub.close())
    assert not (clinic.folder / heard.FILE).exists()
    assert clinic.post("/v1/fleet/none").status_code == 404
    assert not (clinic.folder / heard.FILE).exists()
    assert clinic.call(fleet.HEARTBEAT) == 503
    assert (clinic.folder / heard.FILE).exists()


def test_a_line_that_is_there_again_in_time_is_not_noticed(hub, clinic, world, monkeypatch):
    monkeypatch.setattr(link, "AGAIN_S", 0.1)
    world.run(hub.close())
    threading.Timer(0.5, lambda: world.run(hub.open())).start()
    hub.answers[fleet.PULL_OBJECT] = lambda _: (200, b"here")
    assert clinic.post(fleet.PULL_OBJECT, b"x").content == b"here"


def test_a_hub_that_says_503_is_asked_again(hub, clinic, hasty):
    said = iter([503, 502, 504, 200])
    hub.answers[fleet.CONFIRM] = lambda _: (next(said), b"")
    assert clinic.post(fleet.CONFIRM).status_code == 200
    assert hub.paths() == [fleet.CONFIRM] * 4


def test_a_line_that_stays_broken_becomes_503_and_is_said_once(hub, clinic, world, hasty, caplog):
    world.run(hub.close())
    with caplog.at_level(logging.INFO, "bhasha_fl.gateway"):
        assert clinic.call(fleet.PULL_MESSAGES) == 503
        assert clinic.call(fleet.HEARTBEAT) == 503
        world.run(hub.open())
        assert clinic.post(fleet.HEARTBEAT).status_code == 200
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert said[0].startswith("the hub cannot be reached: ")
    assert said[1] == "the hub is there again"


def test_a_hub_that_falls_silent_becomes_503(hub, clinic, hasty):
    hub.silent = True
    assert clinic.call(fleet.PULL_MESSAGES) == 503
    assert clinic.call(fleet.HEARTBEAT) == 503


def test_the_gateway_answers_before_the_supernode_stops_waiting():
    from flwr.common.constant import HEARTBEAT_CALL_TIMEOUT
    from flwr.supercore.protobuf.client import ProtobufClient

    assert max(exchange.SHORT) < HEARTBEAT_CALL_TIMEOUT
    assert max(exchange.PATIENT) < ProtobufClient.__init__.__kwdefaults__["timeout"]
    assert fleet.HEARTBEAT in exchange.SHORT_PATHS


def test_a_connection_lasts_from_one_heartbeat_to_the_next_and_the_silo_lets_go_of_it_first():
    from flwr.common import constant

    longest = constant.HEARTBEAT_DEFAULT_INTERVAL - constant.HEARTBEAT_CALL_TIMEOUT
    longest *= constant.HEARTBEAT_BASE_MULTIPLIER + max(constant.HEARTBEAT_RANDOM_RANGE)
    assert longest < link.IDLE_S < limits.GRACE_S + limits.IDLE_S


def test_what_the_slowest_line_that_the_hub_bears_still_has_to_carry_is_waited_for():
    assert upload.TIMEOUT.sock_read > sending.PIECE / limits.RATE


def test_an_answer_that_is_too_large_is_not_taken(hub, clinic):
    hub.answers[fleet.CONFIRM] = lambda _: (200, bytes(fleet.SMALL + 1))
    assert clinic.post(fleet.CONFIRM).status_code == 503


def test_a_body_that_is_too_large_is_not_sent(hub, clinic):
    assert clinic.post(fleet.CONFIRM, bytes(fleet.SMALL + 1)).status_code == 403
    assert not hub.got


def test_a_redirect_leads_nowhere(hub, clinic):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        hub.answers[fleet.CONFIRM] = lambda _: (307, b"")
        hub.location = f"http://127.0.0.1:{port}/"
        assert clinic.post(fleet.CONFIRM).status_code == 503
        assert not select.select([elsewhere], [], [], 0.2)[0]


def test_neither_a_host_nor_a_whole_address_in_the_call_leads_elsewhere(hub, clinic):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        with socket.create_connection(("127.0.0.1", clinic.port)) as line:
            head = f"POST http://127.0.0.1:{port}{fleet.CONFIRM} HTTP/1.1\r\n"
            head += f"Host: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            line.sendall(head.encode())
            assert line.makefile("rb").readline().split()[1] == b"200"
        assert not select.select([elsewhere], [], [], 0.2)[0]
    assert hub.paths() == [fleet.CONFIRM]


def test_proxies_of_the_environment_are_not_used(hub, clinic, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{elsewhere.getsockname()[1]}")
        url = f"http://127.0.0.1:{clinic.port}{fleet.CONFIRM}"
        assert httpx.post(url, trust_env=False).status_code == 200
        assert not select.select([elsewhere], [], [], 0.2)[0]


def test_a_hub_of_another_authority_gets_nothing(hub, clinic, world, tmp_path, hasty):
    world.run(hub.close())
    authority.create(tmp_path / "other", hubs.new("Demo", f"127.0.0.1:{hub.port}"))
    world.run(hub.open(tmp_path / "other"))
    assert clinic.call(fleet.PULL_MESSAGES) == 503
    assert not hub.got
    assert not clinic.record()


def test_every_message_that_leaves_is_in_the_record_with_its_size_and_its_hash(hub, clinic):
    clinic.post(fleet.REGISTER, b"one")
    clinic.call(fleet.HEARTBEAT)
    clinic.get_run()
    clinic.get_run(8)
    assert [each.path for each in hub.got].count("/v1/silo/refuse") == 1
    kept = [(each.kind, each.bytes, each.sha256) for each in clinic.record()]
    assert kept == [
        (each.path.partition("?")[0], len(each.body), hashlib.sha256(each.body).hexdigest())
        for each in hub.got
    ]
    (run,) = [each for each in clinic.record() if each.kind == fleet.GET_RUN]
    assert run.study == "small"


def test_a_message_that_is_sent_again_is_in_the_record_again(hub, clinic, hasty):
    said = iter([503, 200])
    hub.answers[fleet.CONFIRM] = lambda _: (next(said), b"")
    clinic.post(fleet.CONFIRM, b"x")
    assert [each.kind for each in clinic.record()] == [fleet.CONFIRM] * 2


def test_a_line_that_cannot_be_reached_leaves_nothing_in_the_record(hub, clinic, world, hasty):
    world.run(hub.close())
    clinic.post(fleet.CONFIRM, b"x")
    assert not clinic.record()


def test_where_the_record_cannot_be_written_nothing_leaves(hub, clinic, hasty):
    (clinic.folder / audit.FILE).mkdir()
    assert clinic.post(fleet.CONFIRM, b"x").status_code == 503
    assert not hub.got


def gateway(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "fl_client.gateway", str(folder), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_as_a_process_it_says_its_port_and_ends_at_sigterm(hub, found, tmp_path):
    folder = found(tmp_path / "silo", hub)
    with gateway(folder) as process:
        word, port = process.stdout.readline().split()
        assert word == "ready"
        assert ports.answers(int(port))()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_a_port_in_use_is_said_in_a_sentence(hub, found, tmp_path):
    folder = found(tmp_path / "silo", hub)
    with gateway(folder, "--port", str(hub.port)) as process:
        said = process.communicate()[1]
        assert process.returncode == 2
    assert f"nothing can listen on 127.0.0.1:{hub.port}" in said
    assert "gateway_port in silo.toml" in said


@pytest.mark.parametrize("missing", ["policy", "settings", "certificate", "study_key"])
def test_a_folder_that_lacks_something_is_said_in_a_sentence(hub, found, tmp_path, missing):
    folder = found(tmp_path / "silo", hub)
    path = getattr(Folder(folder), missing)
    path.unlink()
    with gateway(folder) as process:
        said = process.communicate()[1]
        assert process.returncode == 2
    assert said.startswith("error: ")
    assert path.name in said
    assert len(said.splitlines()) == 1
