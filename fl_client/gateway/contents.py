"""What a reply consists of: which numbers and facts are in it, and errors without their words.

Flower sends a reply as objects: a head that names the kind and the children, a zero byte, a body. An error of
Flower's own carries the text of an exception, which must not leave; it is taken out, and as objects are named by
their hash, the reply gets another name on the way.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from flwr.proto.message_pb2 import Message, ObjectTree
from flwr.proto.recorddict_pb2 import ConfigRecord, MetricRecord
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fl_client import parcels, policy
from fl_client.messages import CODES
from fl_client.parcels import Offer
from fl_client.policy import Egress

HEAD, LONGEST = 1 << 20, 40  # a head names children at 65 bytes each, after the name of the kind
TENSORS = {"ArrayRecord", "Array", "ArrayChunk"}
RECORDS = {"metrics", "facts", "update", "parcel", "fault"}  # as ``messages`` names them
FACTS = 1 << 16  # bytes of all facts in a reply


def fits(content: bytes, egress: Egress) -> bool:
    """Return whether a policy lets an object of a reply out; raises ``ValueError`` on what is no such object."""
    kind, at = _split(content)
    if kind in TENSORS:
        return True
    body = content[at:]
    try:
        if kind == "Message":
            return not Message.FromString(body).error.reason
        if kind == "RecordDict":
            names = json.loads(body)
            return isinstance(names, dict) and set(names) <= RECORDS
        if kind == "MetricRecord":
            items = MetricRecord.FromString(body).items
            return all(policy.matches(item.key, egress.metrics) for item in items)
        return kind == "ConfigRecord" and _facts_fit(body, egress)
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"no {kind}") from error


def offer(content: bytes) -> Offer | None:
    """Return the parcel that an object names, with its delta if it has one; None where it names none.

    Raises ``ValueError`` on what is no object, or names what is no parcel.
    """
    kind, at = _split(content)
    if kind != "ConfigRecord":
        return None
    try:
        items = {
            item.key: item.value.string for item in ConfigRecord.FromString(content[at:]).items
        }
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"no {kind}") from error
    return parcels.offered(items) if "parcel" in items else None


def _facts_fit(body: bytes, egress: Egress) -> bool:
    for item in ConfigRecord.FromString(body).items:
        text = item.value.string
        if item.value.WhichOneof("value") != "string" or len(text) > FACTS:
            return False
        named = item.key == "parcel" and parcels.NAME.fullmatch(text)
        if named or (item.key == "code" and text in CODES):
            continue
        facts = json.loads(text) if item.key == "json" else None
        if not isinstance(facts, dict) or not all(policy.matches(n, egress.facts) for n in facts):
            return False
    return True


def _split(content: bytes) -> tuple[str, int]:
    end = content.find(b"\0", 0, HEAD)
    kind = content.find(b" ", 0, LONGEST)
    if not 0 < kind < end:
        raise ValueError("no object")
    return content[:kind].decode("ascii"), end + 1


def quiet(content: bytes) -> bytes:
    """Return an object without the words of an error, the same where it has none."""
    kind, at = _split(content)
    if kind != "Message":
        return content
    try:
        said = Message.FromString(content[at:])
    except DecodeError as error:
        raise ValueError("no Message") from error
    return _whole(said) if said.error.reason else content


def _whole(said: Any) -> bytes:
    said.error.reason = ""
    said.metadata.message_id = ""  # it is the hash of what follows
    body: bytes = said.SerializeToString(deterministic=True)
    return b"Message  %d\0" % len(body) + body


def quiet_reply(asked: Any) -> dict[str, str]:
    """Take the words of an error out of a push-messages request; return the objects' new names by their old ones."""
    renamed = {}
    for said, tree in zip(asked.messages_list, asked.message_object_trees, strict=False):
        if not said.error.reason:
            continue
        bare = Message()
        bare.CopyFrom(said)
        name = hashlib.sha256(_whole(bare)).hexdigest()
        renamed[tree.object_id] = name
        said.error.reason = ""
        said.metadata.message_id = name
        tree.CopyFrom(ObjectTree(object_id=name))
    return renamed
