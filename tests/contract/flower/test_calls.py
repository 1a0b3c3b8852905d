"""What the gateways lean on in the SuperLink and the SuperNode of flwr 1.41. An upgrade that breaks one of these says
here which workaround to look at, or which one can go."""

from __future__ import annotations

import hashlib
import inspect
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common import constant
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fleet_pb2
from flwr.supercore.http_logging import ROUTINE_ACCESS_PATHS
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.nodestate import in_memory_nodestate as nodestate

from fl_client import fleet, ports, processes, pulse
from fl_server import silos
from fl_server.gateway import relay
from fl_server.hub import Hub

BIN = Path(sys.executable).parent


def test_the_supernode_calls_these_twelve_paths_with_these_types_and_no_others():
    called = {}

    class Recorder(FleetHttpClient):
        def __init__(self):
            pass

        def _unary_unary(self, *, path, request, response_type, **_):
            called[path] = (type(request), response_type)

    for name, method in inspect.getmembers(FleetHttpClient, inspect.isfunction):
        if name[0].isupper():
            (asked,) = list(inspect.signature(method).parameters.values())[1:]
            getattr(Recorder(), name)(asked.annotation())
    assert called == {path: (rule.request, rule.response) for path, rule in fleet.PATHS.items()}


def test_a_supernode_comes_again_after_503_gives_up_a_run_after_403_and_the_call_after_anything_else():
    giveup = make_simple_http_retry_invoker().should_giveup

    def failed(status):
        response = httpx.Response(status, request=httpx.Request("POST", "http://x"))
        return httpx.HTTPStatusError("", request=response.request, response=response)

    assert giveup(failed(503)) is False
    for status in (400, 404, 408, 411, 413, 429, 500, 507):
        assert giveup(failed(status)) is True
    with pytest.raises(RunNotRunningException):
        giveup(failed(403))


@pytest.mark.superlink
def test_a_supernode_ends_at_a_401_to_its_heartbeat(tmp_path):
    called = []

    class Hub(BaseHTTPRequestHandler):
        def do_POST(self):
            called.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            known = {fleet.REGISTER: {"node_id": 7}, fleet.ACTIVATE: {"node_id": 7}}
            body = fleet.answering(self.path, **known.get(self.path, {}))
            self.send_response(401 if self.path == fleet.HEARTBEAT else 200)
            self.send_header("content-type", fleet.MEDIA)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    environment = os.environ | {"FLWR_HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0"}
    environment |= {
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as hub:
        threading.Thread(target=hub.serve_forever).start()
        command = [
            BIN / "flower-supernode",
            "--insecure",
            "--superlink",
            f"127.0.0.1:{hub.server_port}",
        ]
        command += ["--host", "127.0.0.1", "--port", str(ports.free())]
        log = tmp_path / "log"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, env=environment, stdout=said, stderr=said, start_new_session=True
            )
        try:
            assert process.wait(60) == 0
        finally:
            processes.end_group(process, 0)  # and the SuperExec that it leaves behind
            hub.shutdown()
    assert called[:2] == [fleet.REGISTER, fleet.ACTIVATE] and fleet.HEARTBEAT in called
    assert "terminated gracefully" in log.read_text()


def test_the_times_that_the_gateways_build_on():
    client = FleetHttpClient("http://127.0.0.1:1")
    hold = Hub.model_fields["hold_s"]
    assert client._client.timeout.read == 30 > hold.default
    assert all(bound.le < 30 for bound in hold.metadata if hasattr(bound, "le"))
    assert constant.HEARTBEAT_CALL_TIMEOUT == 5
    assert constant.HEARTBEAT_MIN_INTERVAL <= relay.INTERVAL_S <= constant.HEARTBEAT_MAX_INTERVAL
    assert constant.HEARTBEAT_PATIENCE == 2


def test_the_errors_after_which_a_silo_is_asked_again_are_those_by_which_a_message_is_lost():
    named = vars(constant.ErrorCode).items()
    gone = {v for k, v in named if k.endswith(("UNAVAILABLE", "APP_CRASHED"))}
    assert gone == silos.LOST
    assert "ClientApp" in nodestate.CLIENT_APP_CRASHED_ERROR.reason


def test_the_largest_object_of_a_message_fits_a_body():
    blob = Array(dtype="uint8", shape=(12 << 20,), stype="x", data=bytes(12 << 20))
    record = RecordDict({"update": ArrayRecord({"blob": blob})})
    largest = max(len(each.deflate()) for each in get_all_nested_objects(record).values())
    assert constant.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE < largest < fleet.OBJECT - 1024


def test_an_object_is_named_by_the_hash_of_its_bytes_and_a_tree_names_children_before_parents():
    record = RecordDict({"order": ConfigRecord({"text": "x"})})
    objects = get_all_nested_objects(record)
    assert all(hashlib.sha256(o.deflate()).hexdigest() == name for name, o in objects.items())
    asked = fleet_pb2.PushMessagesRequest(message_object_trees=[get_object_tree(record)])
    said = asked.messages_list.add().metadata
    said.reply_to_message_id = "other"
    assert fleet.reply(asked).objects[-1] == record.object_id
    assert set(fleet.reply(asked).objects) == set(objects)


@pytest.mark.superlink
def test_the_superlink_serves_these_twelve_paths(superlink):
    served = httpx.get(f"http://127.0.0.1:{superlink.port}/openapi.json").json()["paths"]
    assert {path for path in served if path.startswith(fleet.BASE)} == set(fleet.PATHS)
    assert all(list(served[path]) == ["post"] for path in fleet.PATHS)


def test_the_superlink_does_not_log_that_it_was_asked_for_its_health():
    assert "/health" in ROUTINE_ACCESS_PATHS


@pytest.mark.superlink
def test_the_superlink_answers_whoever_asks_for_its_health(superlink, monkeypatch):
    monkeypatch.setattr(pulse, "EVERY_S", 0.0)
    silence = pulse.unanswered(superlink.port, "/health")
    time.sleep(1)
    assert silence() < 0.5


@pytest.mark.superlink
def test_a_call_counts_only_with_a_fresh_signature_of_the_time_by_the_nodes_key(superlink, node):
    body = fleet.asking(fleet.PULL_MESSAGES, node={"node_id": node.id})

    def status(headers):
        return superlink.post(fleet.PULL_MESSAGES, body, headers).status_code

    assert status(node.headers()) == 200
    for missing in ("flwr-public-key", "flwr-timestamp", "flwr-signature"):
        assert status({k: v for k, v in node.headers().items() if k != missing}) == 401
    assert status(node.headers() | {"flwr-signature": node.headers(1)["flwr-signature"]}) == 401
    assert status(node.headers(late=relay.FRESH_S)) == 200
    assert status(node.headers(late=310)) == 401
    assert status(node.headers(late=-10)) == 401


@pytest.mark.superlink
def test_a_key_cannot_call_for_the_node_of_another(superlink, node, stranger):
    stranger.call(fleet.REGISTER)
    stranger.activate()
    body = fleet.asking(fleet.PULL_MESSAGES, node={"node_id": node.id})
    assert superlink.post(fleet.PULL_MESSAGES, body, stranger.headers()).status_code == 401


@pytest.mark.superlink
def test_a_key_registers_once_and_is_the_same_node_after_it_went_and_came_back(stranger):
    assert stranger.activate() == 412  # not registered
    assert stranger.call(fleet.REGISTER).node_id
    assert stranger.call(fleet.REGISTER) == 412
    first = stranger.activate().node_id
    assert stranger.activate() == 412  # online already
    stranger.call(fleet.DEACTIVATE, node_id=first)
    assert stranger.activate().node_id == first


@pytest.mark.superlink
def test_a_heartbeat_alone_brings_a_node_back_and_an_unknown_key_is_told_so(node, stranger):
    node.call(fleet.DEACTIVATE, node_id=node.id)
    assert node.call(fleet.HEARTBEAT, heartbeat_interval=900).success
    assert node.activate() == 412  # as it is online again
    stranger.id = node.id
    assert stranger.call(fleet.HEARTBEAT, heartbeat_interval=900) == 401


@pytest.mark.superlink
def test_an_interval_of_900_seconds_is_allowed_and_the_bounds_are_10_and_1800(node):
    assert node.call(fleet.HEARTBEAT, heartbeat_interval=relay.INTERVAL_S).success
    assert node.call(fleet.HEARTBEAT, heartbeat_interval=1801) == 400
    assert node.call(fleet.HEARTBEAT, heartbeat_interval=9) == 400


@pytest.mark.superlink
def test_an_empty_pull_is_an_empty_body(superlink, node):
    body = fleet.asking(fleet.PULL_MESSAGES, node={"node_id": node.id})
    back = superlink.post(fleet.PULL_MESSAGES, body, node.headers())
    assert (back.status_code, back.content) == (200, b"")


@pytest.mark.superlink
def test_a_message_goes_out_once_and_a_reply_comes_in_by_a_push_session(node, run):
    run.ask(node.id, "first")
    said, answer = node.pulled()
    assert (said.run, said.kind) == (run.id, "train")
    assert said.message in said.objects
    assert not node.call(fleet.PULL_MESSAGES).messages_list  # at most once, lost or not

    about = fleet.run(node.call(fleet.GET_RUN, run_id=run.id))
    assert about.config == {"count": 2, "share": 0.25, "wise": True}
    bundle = fleet.bundle(node.call(fleet.GET_FAB, run_id=run.id, hash_str=about.bundle))
    assert hashlib.sha256(bundle.content).hexdigest() == bundle.sha256 == about.bundle
    assert node.call(fleet.GET_FAB, run_id=run.id, hash_str="0" * 64) == 403
    assert node.call(fleet.GET_RUN, run_id=run.id + 1) == 403

    objects = {each: pulled(node, run, each) for each in said.objects}
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in objects.items())
    for _ in range(2):  # confirming twice does no harm
        assert not isinstance(
            node.call(fleet.CONFIRM, run_id=run.id, message_object_id=said.message), int
        )

    fields, contents = reply(node, answer)
    run.quiet(True)
    key = node.call(fleet.PUSH_MESSAGES, **fields)
    assert set(key.objects_to_push) == set(contents)
    first, *rest = key.objects_to_push
    assert not push(node, run, "unknown", first, contents[first]).stored
    assert not push(node, run, key.session_id, first, b"x" + contents[first]).stored
    assert push(node, run, key.session_id, first, contents[first]).stored
    assert not push(node, run, key.session_id, first, contents[first]).stored  # it is here already

    again = node.call(fleet.PUSH_MESSAGES, **fields)  # asks for what is missing, in a new session
    assert set(again.objects_to_push) == set(rest)
    assert not push(node, run, key.session_id, rest[0], contents[rest[0]]).stored

    run.quiet(False)  # now the ServerApp takes the reply, whether its objects are here or not:
    while (now := node.call(fleet.PUSH_MESSAGES, **fields)).objects_to_push:
        again = now
        time.sleep(0.1)
    # nothing is asked for any more, yet the last session that was opened still takes the objects
    assert all(push(node, run, again.session_id, each, contents[each]).stored for each in rest)
    assert run.replied(node.id) == {"text": "answer"}
    assert not node.call(fleet.PUSH_MESSAGES, **fields).objects_to_push

    run.stop()
    until_over(node, run)
    assert node.call(fleet.PUSH_MESSAGES, **fields) == 403
    assert push(node, run, again.session_id, first, contents[first]) == 403
    assert node.call(fleet.CONFIRM, run_id=run.id, message_object_id=said.message) == 403


@pytest.mark.superlink
def test_a_message_to_a_node_that_is_not_there_has_an_empty_key(run):
    run.ask(12345, "nobody")
    assert run.replied(12345) == ""


def pulled(node, run, name):
    for _ in range(100):
        found = node.call(fleet.PULL_OBJECT, run_id=run.id, object_id=name)
        if found.object_available:
            return found.object_content
        assert fleet.coming(found.SerializeToString())
        time.sleep(0.05)
    raise AssertionError("the object did not come")


def push(node, run, session, name, content):
    fields = {"object_id": name, "object_content": content, "session_id": session}
    return node.call(fleet.PUSH_OBJECT, run_id=run.id, **fields)


def until_over(node, run):
    for _ in range(300):
        if node.call(fleet.GET_RUN, run_id=run.id) == 403:
            return
        time.sleep(0.1)
    raise AssertionError("the run did not end")


def reply(node, answer):
    """Return the fields of a push-messages call and the objects of a reply, made by Flower's own Message."""
    asked = message_from_proto(answer.messages_list[0])
    TaskIdentity.run_id, TaskIdentity.task_id = asked.metadata.run_id, 1
    TaskIdentity.node_id = node.id
    made = Message(RecordDict({"order": ConfigRecord({"text": "answer"})}), reply_to=asked)
    made.metadata.__dict__["_message_id"] = made.object_id
    contents = {name: each.deflate() for name, each in get_all_nested_objects(made).items()}
    fields = {
        "messages_list": [message_to_proto(remove_content_from_message(made))],
        "message_object_trees": [get_object_tree(made)],
    }
    return fields, contents
