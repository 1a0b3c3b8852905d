"""What a reply consists of: which numbers and facts are in it, and errors without their words.

An error of Flower's own carries the text of an exception, which must not leave; it is taken out, and as objects are
named by their hash, the reply gets another name on the way.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from flwr.proto.message_pb2 import Message, ObjectTree
from flwr.proto.recorddict_pb2 import ConfigRecord, MetricRecord
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fl_client import fleet, parcels
from fl_client.gateway import facts, objects
from fl_client.gateway.announced import Place
from fl_client.gateway.objects import Object
from fl_client.messages import CODES
from fl_client.parcels import Offer
from fl_client.policy import Egress

HELD = {"ArrayRecord", "MetricRecord", "ConfigRecord"}
KINDS = ({"Message"}, {"RecordDict"}, HELD, {"Array"}, {"ArrayChunk"})  # by how deep they stand
ROUND = re.compile(r"[0-9]{0,20}")


def fits(content: bytes, egress: Egress, place: Place, silo: str) -> bool:
    """Return whether a silo's policy lets an object of a reply out, at its place in what was announced.

    Raises ``ValueError`` on what is no such object.
    """
    found = objects.read(content)
    names = frozenset(found.children)
    if names != place.children or len(names) != len(found.children):
        return False
    known = place.depth < len(KINDS) and found.kind in KINDS[place.depth]
    return known and _fits(found, egress, silo)


def _fits(found: Object, egress: Egress, silo: str) -> bool:
    match found.kind:
        case "Message":
            return _message_fits(found, egress)
        case "RecordDict":
            return objects.records(found)
        case "ArrayRecord":
            return objects.array_record(found)
        case "Array":
            return objects.array(found)
        case "ArrayChunk":
            return objects.chunk(found)
        case "MetricRecord":
            return not found.children and _metrics_fit(found, egress)
    return not found.children and _facts_fit(found, egress, silo)


def _message_fits(found: Object, egress: Egress) -> bool:
    said = _parsed(Message, found)
    more = said.error.reason or said.content.ByteSize() or said.metadata.message_id
    return not more and len(found.children) <= 1 and plain(said.metadata, egress)


def plain(metadata: Any, egress: Egress) -> bool:
    """Return whether the words that go with a reply are a kind of message, the one that it answers, and a round."""
    return bool(
        metadata.message_type in egress.kinds
        and fleet.ID.fullmatch(metadata.reply_to_message_id)
        and ROUND.fullmatch(metadata.group_id)
    )


def _metrics_fit(found: Object, egress: Egress) -> bool:
    items = _parsed(MetricRecord, found).items
    return len({item.key for item in items}) == len(items) and all(
        item.value.WhichOneof("value") == "double" and facts.number(item.key, egress)
        for item in items
    )


def _facts_fit(found: Object, egress: Egress, silo: str) -> bool:
    items = _parsed(ConfigRecord, found).items
    if len({item.key for item in items}) != len(items):
        return False
    for item in items:
        text = item.value.string
        if item.value.WhichOneof("value") != "string":
            return False
        named = item.key == "parcel" and parcels.NAME.fullmatch(text)
        if named or (item.key == "code" and text in CODES):
            continue
        if item.key != "json":
            return False
        told = objects.table(text).items()
        if not all(facts.fact(name, value, egress, silo) for name, value in told):
            return False
    return True


def _parsed(kind: Any, found: Object) -> Any:
    """Return what is in a body; raises ``ValueError`` where that is not all of it."""
    try:
        said = kind.FromString(found.body)
        said.DiscardUnknownFields()
    except (DecodeError, RecursionError) as error:
        raise ValueError(f"no {found.kind}") from error
    if said.SerializeToString(deterministic=True) != found.body:
        raise ValueError(f"a {found.kind} as Flower does not write it")
    return said


def offer(content: bytes) -> Offer | None:
    """Return the parcel that an object names, with its delta if it has one; None where it names none.

    Raises ``ValueError`` on what is no object, or names what is no parcel.
    """
    found = objects.read(content)
    if found.kind != "ConfigRecord":
        return None
    items = {item.key: item.value.string for item in _parsed(ConfigRecord, found).items}
    return parcels.offered(items) if "parcel" in items else None


def quiet(content: bytes) -> bytes:
    """Return an object without the words of an error, the same where it has none."""
    found = objects.read(content)
    if found.kind != "Message":
        return content
    said = _parsed(Message, found)
    return _bare(said) if said.error.reason else content


def _bare(said: Any, *children: str) -> bytes:
    """Return the object that is a message without words, whose name is the hash of what follows."""
    bare = Message()
    bare.CopyFrom(said)
    bare.metadata.message_id = ""
    if said.HasField("error"):
        bare.error.reason = ""
    return Object("Message", list(children), bare.SerializeToString(deterministic=True)).whole()


def quiet_reply(asked: Any) -> dict[str, str]:
    """Take the words of an error out of a push-messages request; return the objects' new names by their old ones."""
    renamed = {}
    for said, tree in zip(asked.messages_list, asked.message_object_trees, strict=False):
        if not said.error.reason:
            continue
        name = _name(_bare(said))
        renamed[tree.object_id] = name
        said.error.reason = ""
        said.metadata.message_id = name
        tree.CopyFrom(ObjectTree(object_id=name))
    return renamed


def fault(request: Any, code: str) -> tuple[Any, dict[str, bytes]]:
    """Return a reply that carries nothing but a code, in place of one that was announced.

    It is the push-messages request that announces it, and its objects by name, children first.
    """
    said = ConfigRecord()
    said.items.add(key="code").value.string = code
    leaf = Object("ConfigRecord", [], said.SerializeToString(deterministic=True)).whole()
    body = json.dumps({"fault": _name(leaf)}).encode()
    held = Object("RecordDict", [_name(leaf)], body).whole()
    made = type(request)()
    made.CopyFrom(request)
    announced = made.messages_list[0]
    announced.ClearField("error")
    root = _bare(announced, _name(held))
    announced.metadata.message_id = _name(root)
    made.message_object_trees[0].CopyFrom(_tree(root, held, leaf))
    return made, {_name(each): each for each in (leaf, held, root)}


def _tree(root: bytes, *below: bytes) -> Any:
    return ObjectTree(object_id=_name(root), children=[_tree(*below)] if below else [])


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
