"""What a reply may consist of: objects as Flower writes them, under our own names, with nothing beside."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, MetricRecord, RecordDict
from flwr.proto.message_pb2 import Message
from flwr.proto.recorddict_pb2 import ConfigRecord as Config
from flwr.proto.recorddict_pb2 import MetricRecord as Metrics
from safetensors.numpy import save

from fl_client import fleet, messages, parcels, spec, tensors
from fl_client.gateway import announced, arrays, contents
from fl_client.gateway.announced import Place
from fl_client.gateway.objects import Object
from fl_client.policy import Egress
from strategies.codecs.codec import Key

from .desk import RUN, kept, push, reply_naming

SECRET = b"text of this silo"
A, B = "a" * 64, "b" * 64
MOST = Egress(
    kinds=("train",), metrics=("loss", "valid/*"), facts=("silo", "round"),
    max_bytes_per_round=1 << 30, max_bytes_per_day=1 << 30,
)  # fmt: skip


def fits(content, depth, *children):
    """Return whether an object may leave that was announced at this place."""
    try:
        return contents.fits(content, MOST, Place(depth, frozenset(children)), "clinic-a")
    except ValueError:
        return False


def made(kind, body, *children):
    return Object(kind, list(children), body).whole()


def said(**changes):
    """Return the body of a message as Flower writes it."""
    held = Message(**changes)
    held.metadata.run_id, held.metadata.message_type = RUN, "train"
    held.metadata.reply_to_message_id, held.metadata.group_id = A, "3"
    return held


def body(proto):
    return proto.SerializeToString(deterministic=True)


def blob(**named):
    return save(named or {"values": np.zeros(4, np.float32)})


def table(**named):
    return json.dumps(named).encode()


ARRAY = {"dtype": "uint8", "shape": [100], "stype": "safetensors", "arraychunk_ids": [0]}
FACTS = Config()
FACTS.items.add(key="json").value.string = '{"silo": "clinic-a"}'
LOSS = Metrics()
LOSS.items.add(key="loss").value.double = 1.0
HONEST = {
    "message": (made("Message", body(said()), A), 0, A),
    "records": (made("RecordDict", table(metrics=A, facts=B), A, B), 1, A, B),
    "metrics": (made("MetricRecord", body(LOSS)), 2),
    "facts": (made("ConfigRecord", body(FACTS)), 2),
    "arrays": (made("ArrayRecord", table(blob=A), A), 2, A),
    "array": (made("Array", table(**ARRAY), A), 3, A),
    "chunk": (made("ArrayChunk", blob()), 4),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_object_as_flower_writes_it_may_leave_at_its_own_place_alone(name):
    content, depth, *children = HONEST[name]
    assert fits(content, depth, *children)
    assert not any(fits(content, other, *children) for other in range(7) if other != depth)
    assert not fits(content, depth, *children, "c" * 64)


@pytest.mark.parametrize("name", HONEST)
def test_nothing_hides_between_kind_and_body(name):
    content, depth, *children = HONEST[name]
    head, _, rest = content.partition(b"\0")
    kind, names, length = head.split(b" ")
    heads = [
        b" ".join([kind, SECRET, length]),
        b" ".join([kind, names + SECRET.hex().encode(), length]),
        b" ".join([kind, names, length, SECRET]),
        b" ".join([kind, names, b"0" + length]),
        b" ".join([kind, names, b"%d" % (int(length) + 1)]),
        b" ".join([kind, names, b"%d" % (int(length) - 1)]),
        b" ".join([kind, names]),
        b" ".join([kind, (names + b"," + names).strip(b","), length]) if names else kind,
        kind + b" " + b"x" * (1 << 19),
    ]
    assert not any(fits(each + b"\0" + rest, depth, *children) for each in heads)
    assert not fits(content + SECRET, depth, *children)


def unknown(field=200):
    """Return a field that no protobuf of Flower's has: whoever reads the others passes over it."""
    tag = field << 3 | 2
    return bytes([tag & 127 | 128, tag >> 7, len(SECRET)]) + SECRET


def carrying(proto):
    content = body(proto) + unknown()
    assert body(type(proto).FromString(content)) == content  # it is read, kept, and sent on
    return content


def holding():
    held = said()
    held.content.items.add(key="raw").config_record.items.add(key="x").value.string = "text"
    return held


def told(**words):
    held = said()
    for key, word in words.items():
        setattr(held.metadata, key, word)
    return held


@pytest.mark.parametrize(
    "content",
    [
        body(holding()),
        carrying(said()),
        body(told(message_id=SECRET.hex())),
        body(told(group_id="text of this silo")),
        body(told(reply_to_message_id="text of this silo")),
        body(told(message_type="text")),
        body(Message(error={"code": 1, "reason": "text"}, metadata=said().metadata)),
    ],
)
def test_a_message_carries_no_content_and_no_words(content):
    assert SECRET in content or b"text" in content or SECRET.hex().encode() in content
    assert not fits(made("Message", content, A), 0, A)


@pytest.mark.parametrize(
    "content",
    [
        table(raw=A),
        table(metrics=A) + b" " * 100,
        b'{"metrics": "text of this silo", "metrics": "%s"}' % A.encode(),
        table(metrics=A, facts="text of this silo"),
        table(metrics=[A]),
        table(),
        b"[]",
        b"[" * 5000,
    ],
)
def test_records_have_known_names_and_nothing_beside(content):
    assert not fits(made("RecordDict", content, A), 1, A)


@pytest.mark.parametrize(
    "content",
    [table(**{"text of this silo": A}), table(blob=A, raw=A), table(blob=B), table(), b"[]"],
)
def test_a_record_of_arrays_holds_one_blob(content):
    assert not fits(made("ArrayRecord", content, A), 2, A)


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "text of this silo"},
        {"stype": "numpy.ndarray"},
        {"shape": [100, 100]},
        {"shape": ["text"]},
        {"shape": "text"},
        {"arraychunk_ids": [0, 0, 0]},
        {"arraychunk_ids": [1]},
        {"arraychunk_ids": [0.0]},
        {"arraychunk_ids": [False]},
        {"arraychunk_ids": ["text"]},
        {"arraychunk_ids": []},
        {"raw": "text of this silo"},
    ],
)
def test_an_array_is_a_blob_in_one_chunk(change):
    assert not fits(made("Array", table(**ARRAY | change), A), 3, A)


def numbers(**named):
    held = Metrics()
    for key, value in named.items():
        held.items.add(key=key).value.double_list.vals.extend(value)
    return held


def twice(proto):
    held = type(proto)()
    held.items.extend([*proto.items, *proto.items])
    return held


@pytest.mark.parametrize(
    "content", [carrying(LOSS), body(numbers(loss=list(SECRET))), body(twice(LOSS))]
)
def test_metrics_are_one_number_a_name(content):
    assert not fits(made("MetricRecord", content), 2)


def fact(text):
    held = Config()
    held.items.add(key="json").value.string = text
    return held


@pytest.mark.parametrize(
    "content",
    [
        carrying(FACTS),
        body(twice(FACTS)),
        body(fact('{"silo": "text", "silo": "clinic-a"}')),
        body(fact('{"silo":\t "clinic-a"}')),
        body(fact("[" * 5000)),
    ],
)
def test_facts_are_one_value_a_name(content):
    assert not fits(made("ConfigRecord", content), 2)


def file_of(header, rest=bytes(16)):
    text = (
        header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    )
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + rest


VALUES = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
PLAIN = {"values": VALUES}
SMUGGLED = {
    "a name": file_of({"text of this silo": VALUES}),
    "a name that ends well": file_of({"text of this silo.lora_A.weight": VALUES}),
    "a long name": file_of({"x" * 65 + ".lora_A.weight": VALUES}),
    "a place in no chain": file_of({"text.gaps": VALUES}),
    "a codec that is none": file_of({"0.text": VALUES}),
    "metadata": file_of({"__metadata__": {"raw": "text of this silo"}, **PLAIN}),
    "a field": file_of({"values": VALUES | {"raw": "text of this silo"}}),
    "white space": file_of(json.dumps(PLAIN).encode()),
    "padding": file_of(json.dumps(PLAIN, separators=(",", ":")).encode() + b" " * 64),
    "a name twice": file_of(b'{"values":{"dtype":"text"},' + json.dumps(PLAIN)[1:].replace(" ", "").encode()),
    "no table": file_of([1]),
    "no header": SECRET * 10,
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", SMUGGLED)
def test_a_file_of_arrays_holds_no_text_beside_them(tmp_path, name):
    file = tmp_path / "x.safetensors"
    file.write_bytes(SMUGGLED[name])
    with pytest.raises(ValueError, match="it|its"):
        arrays.check(file)
    assert not fits(made("ArrayChunk", SMUGGLED[name]), 4)


def test_the_file_that_those_were_made_of_may_leave(tmp_path):
    file = tmp_path / "x.safetensors"
    file.write_bytes(file_of(PLAIN))
    arrays.check(file)
    assert fits(made("ArrayChunk", file_of(PLAIN)), 4)
    file.write_bytes(file_of(PLAIN) + SECRET)
    with pytest.raises(ValueError, match="no file of arrays"):
        arrays.check(file)


def test_an_array_of_several_chunks_does_not_leave_whatever_comes_first(hub, desk, clinic):
    content = file_of({"__metadata__": {"raw": SECRET.decode()}, **PLAIN}, bytes(6 << 20))
    chunks = [made("ArrayChunk", each) for each in (content[: 5 << 20], content[5 << 20 :])]
    names = [name(each) for each in chunks]
    several = made("Array", table(**ARRAY | {"arraychunk_ids": [0, 1]}), *names)
    assert not fits(several, 3, *names)
    below = {"object_id": name(several), "children": [{"object_id": each} for each in names]}
    for each in (*chunks, several):
        taken = announce(clinic, {"object_id": A, "children": [{"object_id": B, "children": [
            {"object_id": "c" * 64, "children": [below]}]}]})  # fmt: skip
        assert push_object(clinic, taken, each) == 403
    assert fleet.PUSH_OBJECT not in hub.paths()


def test_the_ids_of_three_hundred_thousand_token_rows_may_leave(tmp_path):
    made = {messages.TOKENS: np.arange(300_000, dtype=np.int32)}
    arrays.check(parcels.path(tmp_path, parcels.keep(tmp_path, made)))


CHAINS = [
    *(f"{name}()" for name in spec.factories("codec")),
    "topk(0.5, least=0.1) | int8(least=4)",
]


@pytest.mark.parametrize("codec", CHAINS)
def test_what_every_codec_makes_may_leave(tmp_path, codec):
    chain, x = spec.codec(codec), np.linspace(-1, 1, 1000, dtype=np.float32)
    wire, _ = chain.encode(x, chain.init(x.size), Key(7, 1, "clinic-a"))
    arrays.check(parcels.path(tmp_path, parcels.keep(tmp_path, wire)))
    assert fits(made("ArrayChunk", save(wire)), 4)


NAMES = ["lora_A.weight", "lora_B.weight", "lora_B.core", "lora_A.private", "lora_B.merged"]
NAMES += ["lora_A.weight.control", "trainable_tokens_delta"]


def test_what_an_adapter_holds_may_leave(tmp_path):
    place = "base_model.model.model.layers.0.self_attn.q_proj"
    whole = {f"{place}.{name}": np.ones((2, 3), np.float32) for name in NAMES}
    arrays.check(parcels.path(tmp_path, parcels.keep(tmp_path, whole)))
    arrays.header(b"".join(tensors.pieces(whole))[: 1 << 20])
    assert fits(made("ArrayChunk", save(whole)), 4)


@pytest.mark.parametrize(
    "reply",
    [
        RecordDict({"fault": ConfigRecord({"code": "internal"})}),
        reply_naming(parcels.Parcel(A, 100)),
        RecordDict(
            {
                "metrics": MetricRecord({"loss": 1.0, "valid/hin": 2.0}),
                "update": messages.pack({"values": np.zeros(1_000_000, np.float32)}),
            }
        ),
        Error(code=1, reason="why"),
    ],
)
def test_all_objects_of_a_reply_of_flowers_own_making_may_leave(write, reply):
    written = write(reply)
    asked = fleet.request(fleet.PUSH_MESSAGES, fleet.asking(fleet.PUSH_MESSAGES, **written.request))
    contents.quiet_reply(asked)
    places = announced.read(asked).places
    for content in map(contents.quiet, written.objects.values()):
        assert contents.fits(content, MOST, places[hashlib.sha256(content).hexdigest()], "clinic-a")


def announce(clinic, tree, **words):
    """Announce a reply of this tree as the SuperNode does; return the answer, or its status."""
    metadata = said().metadata
    metadata.message_id, metadata.src_node_id = tree["object_id"], 1001
    for key, word in words.items():
        setattr(metadata, key, word)
    reply = {"messages_list": [{"metadata": metadata}], "message_object_trees": [tree]}
    return clinic.call(fleet.PUSH_MESSAGES, **reply)


def push_object(clinic, taken, content, name=None):
    return clinic.call(
        fleet.PUSH_OBJECT, run_id=RUN, session_id=taken.session_id, object_content=content,
        object_id=name or hashlib.sha256(content).hexdigest(),
    )  # fmt: skip


def name(content):
    return hashlib.sha256(content).hexdigest()


def test_a_message_with_content_does_not_leave_though_it_was_announced(hub, desk, clinic):
    content = made("Message", body(holding()))
    taken = announce(clinic, {"object_id": name(content)})
    assert push_object(clinic, taken, content) == 403
    assert hub.told() == [(RUN, "content_not_allowed")]
    assert fleet.PUSH_OBJECT not in hub.paths()
    plain = made("Message", body(said()))
    taken = announce(clinic, {"object_id": name(plain)})
    assert push_object(clinic, taken, plain).stored


def test_a_head_with_text_in_it_does_not_leave_though_it_was_announced(hub, desk, clinic):
    honest = made("ConfigRecord", body(FACTS))
    content = honest.replace(b"ConfigRecord ", b"ConfigRecord " + SECRET * 1000)
    held = [made("RecordDict", table(facts=name(each)), name(each)) for each in (content, honest)]
    for each, records in zip((content, honest), held, strict=True):
        root = made("Message", body(said()), name(records))
        below = {"object_id": name(records), "children": [{"object_id": name(each)}]}
        taken = announce(clinic, {"object_id": name(root), "children": [below]})
        back = push_object(clinic, taken, each)
        assert back == 403 if each is content else back.stored
    assert hub.told() == [(RUN, "content_not_allowed")]
    assert not [each for each in hub.got if SECRET in each.body]


def test_only_what_was_announced_leaves(hub, desk, clinic):
    content = made("ArrayChunk", blob())
    taken = announce(clinic, {"object_id": A})
    assert push_object(clinic, taken, content) == 403
    assert push_object(clinic, taken, content, A) == 403
    assert push_object(clinic, type(taken)(session_id=B), content) == 403
    assert fleet.PUSH_OBJECT not in hub.paths()


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"object_id": A, "children": [{"object_id": f"{n:064x}"} for n in range(2000)]}, {}),
        ({"object_id": A, "children": [{"object_id": B, "children": [{"object_id": B}]}]}, {}),
        ({"object_id": A}, {"message_id": B}),
        ({"object_id": A}, {"group_id": "text of this silo"}),
        ({"object_id": A}, {"reply_to_message_id": "text of this silo"}),
    ],
)
def test_an_announcement_of_anything_but_a_reply_does_not_leave(hub, desk, clinic, tree, words):
    assert announce(clinic, tree, **words) == 403
    assert hub.told() == [(RUN, "content_not_allowed")]
    assert fleet.PUSH_MESSAGES not in hub.paths()


def test_what_no_reader_of_a_call_looks_at_does_not_leave(hub, desk, clinic, write):
    reply = write(RecordDict({"fault": ConfigRecord({"code": "internal"})}))
    asked = fleet.asking(fleet.PUSH_MESSAGES, node={"node_id": 1001}, **reply.request)
    back = clinic.post(fleet.PUSH_MESSAGES, asked + unknown())
    assert back.status_code == 200
    session = fleet.response(fleet.PUSH_MESSAGES, back.content).session_id
    for object_, content in reply.objects.items():
        asked = fleet.asking(
            fleet.PUSH_OBJECT, node={"node_id": 1001}, run_id=RUN, session_id=session,
            object_id=object_, object_content=content,
        )  # fmt: skip
        assert clinic.post(fleet.PUSH_OBJECT, asked + unknown()).status_code == 200
    assert hub.codes() == ["internal"]
    assert not [each for each in hub.got if SECRET in each.body]


def test_a_parcel_whose_header_holds_text_does_not_leave(hub, desk, clinic, write):
    content = SMUGGLED["a name that ends well"]
    parcel = parcels.put(clinic.folder / parcels.OUTBOX, [content])
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 403
    assert not desk.asked and hub.codes() == ["parcel_missing"]
    parcel, content = kept(clinic)
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 200
    assert desk.held == content


def test_an_array_of_another_name_does_not_leave(hub, desk, clinic, write):
    whole = Array(dtype="uint8", shape=(len(blob()),), stype="safetensors", data=blob())
    for key, passes in (("blob", True), ("text of this silo", False)):
        statuses = push(clinic, write(RecordDict({"update": ArrayRecord({key: whole})})))
        assert (set(statuses.values()) == {200}) is passes
    assert not [each for each in hub.got if SECRET in each.body]
