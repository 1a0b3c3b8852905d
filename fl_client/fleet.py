"""Flower's silo API as far as the gateways know it: twelve paths, what a body may weigh, and what it says.

The one file, besides the seams to Flower, that reads its protobufs. They are part of flwr but not documented as
stable: ``tests/contract/flower`` says which of these lines an upgrade breaks. A body that cannot be read raises
``ValueError``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, run_pb2
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]

from fl_client.config import Scalar

BASE = "/v1/fleet/"
REGISTER, UNREGISTER = BASE + "register-node", BASE + "unregister-node"
ACTIVATE, DEACTIVATE = BASE + "activate-node", BASE + "deactivate-node"
HEARTBEAT = BASE + "send-node-heartbeat"
PULL_MESSAGES, PUSH_MESSAGES = BASE + "pull-messages", BASE + "push-messages"
PULL_OBJECT, PUSH_OBJECT = BASE + "pull-object", BASE + "push-object"
CONFIRM = BASE + "confirm-message-received"
GET_RUN, GET_FAB = BASE + "get-run", BASE + "get-fab"
MEDIA = "application/protobuf"
ID = re.compile(r"[0-9a-f]{64}")  # an object is named by the SHA-256 of its bytes
SMALL, TREE, OBJECT, BUNDLE = 4 << 10, 4 << 20, 6 << 20, 12 << 20


class Rule(NamedTuple):
    """One path: what is asked and answered, and the most bytes of the one (``cap``) and of the other."""

    request: type[Message]
    response: type[Message]
    cap: int = SMALL
    back: int = SMALL


PATHS = {
    REGISTER: Rule(fleet_pb2.RegisterNodeFleetRequest, fleet_pb2.RegisterNodeFleetResponse),
    ACTIVATE: Rule(fleet_pb2.ActivateNodeRequest, fleet_pb2.ActivateNodeResponse),
    DEACTIVATE: Rule(fleet_pb2.DeactivateNodeRequest, fleet_pb2.DeactivateNodeResponse),
    UNREGISTER: Rule(fleet_pb2.UnregisterNodeFleetRequest, fleet_pb2.UnregisterNodeFleetResponse),
    HEARTBEAT: Rule(
        heartbeat_pb2.SendNodeHeartbeatRequest, heartbeat_pb2.SendNodeHeartbeatResponse
    ),
    PULL_MESSAGES: Rule(fleet_pb2.PullMessagesRequest, fleet_pb2.PullMessagesResponse, back=TREE),
    PUSH_MESSAGES: Rule(fleet_pb2.PushMessagesRequest, fleet_pb2.PushMessagesResponse, TREE, TREE),
    GET_RUN: Rule(run_pb2.GetRunRequest, run_pb2.GetRunResponse, back=1 << 20),
    GET_FAB: Rule(fab_pb2.GetFabRequest, fab_pb2.GetFabResponse, back=BUNDLE),
    PULL_OBJECT: Rule(message_pb2.PullObjectRequest, message_pb2.PullObjectResponse, back=OBJECT),
    PUSH_OBJECT: Rule(message_pb2.PushObjectRequest, message_pb2.PushObjectResponse, OBJECT),
    CONFIRM: Rule(
        message_pb2.ConfirmMessageReceivedRequest,
        message_pb2.ConfirmMessageReceivedResponse,
    ),
}


class Reply(NamedTuple):
    """What a silo announces with push-messages: one answer, and the objects that it consists of."""

    run: int
    message: str
    answers: str  # the message it answers
    round: str
    objects: tuple[str, ...]  # children before parents, each once


class Piece(NamedTuple):
    """One object of a reply, as push-object carries it."""

    run: int
    session: str
    object: str
    content: bytes


class Pulled(NamedTuple):
    """The message in an answer to pull-messages."""

    run: int
    message: str
    kind: str
    round: str
    objects: frozenset[str]
    expires: float  # Unix seconds, by the hub's clock


class Run(NamedTuple):
    """What get-run says of a run: the bundle's SHA-256 and what the study changes of its configuration."""

    run: int
    bundle: str
    config: dict[str, Scalar]


class Bundle(NamedTuple):
    """What get-fab carries. The hash is as stated; the reader hashes the content."""

    sha256: str
    content: bytes


def request(path: str, body: bytes) -> Any:
    """Return the request in a body."""
    return _read(PATHS[path].request, body)


def response(path: str, body: bytes) -> Any:
    """Return the response in a body."""
    return _read(PATHS[path].response, body)


def _read(kind: type[Message], body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"no {kind.__name__}") from error


def asking(path: str, **fields: Any) -> bytes:
    """Return the body of a request with these fields; a nested message is given as a dict."""
    body: bytes = PATHS[path].request(**fields).SerializeToString()
    return body


def answering(path: str, **fields: Any) -> bytes:
    """Return the body of a response with these fields."""
    body: bytes = PATHS[path].response(**fields).SerializeToString()
    return body


def node_ids(asked: Any) -> set[int]:
    """Return every node for which a request speaks; empty for register and activate, which name a key."""
    found = {asked.node.node_id} if hasattr(asked, "node") else set()
    if hasattr(asked, "node_id"):
        found.add(asked.node_id)
    return found | {m.metadata.src_node_id for m in getattr(asked, "messages_list", ())}


def reply(asked: Any) -> Reply:
    """Return what a push-messages request announces; raises ``ValueError`` on anything but one reply and its tree."""
    if len(asked.messages_list) != 1 or len(asked.message_object_trees) != 1:
        raise ValueError("not one message with one tree")
    said = asked.messages_list[0].metadata
    objects = tuple(dict.fromkeys(_walk(asked.message_object_trees[0])))
    if not said.reply_to_message_id or not all(ID.fullmatch(each) for each in objects):
        raise ValueError("not a reply")
    return Reply(said.run_id, said.message_id, said.reply_to_message_id, said.group_id, objects)


def _walk(tree: Any) -> Iterator[str]:
    for child in tree.children:
        yield from _walk(child)
    yield tree.object_id


def piece(asked: Any) -> Piece:
    """Return what a push-object request carries."""
    return Piece(asked.run_id, asked.session_id, asked.object_id, asked.object_content)


def pulled(answer: Any) -> Pulled | None:
    """Return the message in an answer to pull-messages, None where there is none."""
    if not answer.messages_list or not answer.message_object_trees:
        return None
    said = answer.messages_list[0].metadata
    objects = frozenset(_walk(answer.message_object_trees[0]))
    until = said.created_at + said.ttl
    return Pulled(said.run_id, said.message_id, said.message_type, said.group_id, objects, until)


def coming(body: bytes) -> bool:
    """Return whether an answer to pull-object says that the object is known but not written yet."""
    if len(body) > SMALL:
        return False
    answer = response(PULL_OBJECT, body)
    return bool(answer.object_found and not answer.object_available)


def run(answer: Any) -> Run:
    """Return what an answer to get-run says; raises ``ValueError`` on a setting that is no scalar."""
    config: dict[str, Scalar] = {}
    for key, value in answer.run.override_config.items():
        kind = value.WhichOneof("scalar")
        if kind not in ("double", "uint64", "sint64", "bool", "string"):
            raise ValueError(f"setting {key} is no scalar")
        config[key] = getattr(value, kind)
    return Run(answer.run.run_id, answer.run.fab_hash, config)


def bundle(answer: Any) -> Bundle:
    """Return what an answer to get-fab carries."""
    return Bundle(answer.fab.hash_str, answer.fab.content)
