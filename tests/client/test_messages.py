"""What travels: orders and replies come back as they were, and whatever else arrives is ``malformed``."""

from __future__ import annotations

import json
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl_client import messages, parcels
from fl_client.messages import CODES, Fault, Order, Reply
from fl_client.parcels import Delta, Offer, Parcel

pytestmark = pytest.mark.usefixtures("identity")
quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)

ADAPTER = {
    "x.lora_A.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "x.lora_B.weight": np.zeros((3, 2), np.float32),
}
BLOB = messages.pack(ADAPTER)["blob"].data


def asked(content: RecordDict) -> Message:
    return messages.to(3, "train", content)


def replied(content: RecordDict) -> Message:
    return Message(content, reply_to=asked(messages.order(Order())))


def record(data: bytes, stype: str = messages.BLOB, dtype: str = "uint8") -> ArrayRecord:
    return ArrayRecord({"blob": Array(dtype=dtype, shape=(len(data),), stype=stype, data=data)})


def header(names: dict, body: bytes = b"") -> bytes:
    text = json.dumps(names).encode()
    return struct.pack("<Q", len(text)) + text + body


def one(dtype: str, shape: list[int], end: int, body: bytes) -> bytes:
    return header({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}, body)


class Boom:
    """Something that makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self):
        return (os.mkdir, (str(self._folder),))


MALFORMED = {
    "empty": b"",
    "truncated by a byte": BLOB[:-1],
    "truncated in the header": BLOB[:20],
    "truncated in the length": BLOB[:5],
    "with bytes behind": BLOB + b"\x00",
    "a pickle": pickle.dumps(ADAPTER),
    "a NumPy file": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }",
    "a header length beyond all": struct.pack("<Q", 2**63) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 3) + b"{x}",
    "a header that is a list": header([]),
    "a header that is deep": struct.pack("<Q", 40_000) + b"[" * 40_000,
    "a tensor without a type": header({"x": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "an unknown type": one("F33", [1], 4, b"1234"),
    "a type that NumPy lacks": one("F8_E5M2", [4], 4, b"1234"),
    "another such type": one("F8_E4M3", [4], 4, b"1234"),
    "a third such type": one("BF16", [2], 4, b"1234"),
    "a shape beyond its bytes": one("F32", [9], 4, b"1234"),
    "a negative shape": one("F32", [-1], 4, b"1234"),
    "a shape that overflows": one("F32", [2**62, 2**62], 4, b"1234"),
    "bytes beyond the end": one("F32", [2], 8, b"1234"),
    "a hole": header({"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
}
WRONG_RECORDS = {
    "another stype": record(BLOB, stype="numpy.ndarray"),
    "an empty stype": record(BLOB, stype=""),
    "no blob": ArrayRecord({"x": record(BLOB)["blob"]}),
    "nothing": ArrayRecord({}),
    "a second array": ArrayRecord({"blob": record(BLOB)["blob"], "x": record(b"")["blob"]}),
    "NumPy arrays": ArrayRecord({"blob": Array(np.zeros(3, np.float32))}),
}


def read_as_order(held: ArrayRecord) -> None:
    content = messages.order(Order())
    content["adapter"] = held
    messages.read_order(asked(content))


def read_as_reply(held: ArrayRecord) -> messages.Reply:
    content = RecordDict({"metrics": MetricRecord({}), "facts": ConfigRecord({"json": "{}"})})
    content["update"] = held
    return messages.read_reply(replied(content))


arrays = st.dictionaries(
    st.text("abc._/", min_size=1, max_size=8),
    hnp.arrays(
        st.sampled_from([np.float32, np.float16, np.uint8, np.uint16, np.uint32, np.int8]),
        hnp.array_shapes(max_dims=3, max_side=4, min_side=0),
    ),
    max_size=4,
)


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype
        and left[n].shape == right[n].shape
        and left[n].tobytes() == right[n].tobytes()
        for n in left
    )


@quick
@given(
    arrays,
    st.builds(
        Order,
        st.integers(0, 99),
        st.sampled_from(["", "Beng", "Beng,Deva"]),
        st.text("0123456789abcdef", max_size=64),
        st.integers(0, 99),
        st.booleans(),
        st.integers(0, 99),
        st.integers(0, 99),
        st.integers(0, 99),
        st.integers(0, 99),
    ),
)
def test_an_order_arrives_as_it_was_sent(adapter, order):
    message = asked(messages.order(order, adapter))
    assert message.metadata.dst_node_id == 3
    received, found = messages.read_order(message)
    assert received == order
    assert received.round == order.after + 1
    assert same(found, adapter)


facts = st.dictionaries(
    st.text("ab", max_size=4),
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5) | st.lists(st.integers()),
    max_size=3,
)
numbers = st.dictionaries(st.text("ab/", min_size=1), st.floats(allow_nan=False), max_size=3)


@quick
@given(st.none() | arrays, numbers, facts)
def test_a_reply_arrives_as_it_was_sent(update, metrics, facts):
    message = messages.answer(asked(messages.order(Order())), metrics, facts, update)
    reply = messages.read_reply(message)
    assert same(reply.arrays, update or {})
    assert reply[1:4] == (metrics, facts, "")
    assert reply.bytes == messages.size(message.content)
    assert (reply.bytes > 0) == (update is not None)


def test_a_message_without_arrays_carries_none():
    content = messages.order(Order())
    assert messages.size(content) == 0
    assert messages.read_order(asked(content)) == (Order(), {})


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_blob_is_a_fault_and_a_code(name):
    with pytest.raises(Fault) as caught:
        read_as_order(record(MALFORMED[name]))
    assert caught.value.code == "malformed"
    assert read_as_reply(record(MALFORMED[name])) == Reply({}, {}, {}, "malformed", 0)


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_a_record_that_is_not_one_blob_is_a_fault_and_a_code(name):
    with pytest.raises(Fault) as caught:
        read_as_order(WRONG_RECORDS[name])
    assert caught.value.code == "malformed"
    assert read_as_reply(WRONG_RECORDS[name]) == Reply({}, {}, {}, "malformed", 0)


@quick
@given(st.binary(max_size=200))
def test_random_bytes_are_a_fault_and_a_code(data):
    with pytest.raises(Fault) as caught:
        messages.unpack(record(data))
    assert caught.value.code == "malformed"
    assert read_as_reply(record(data)).code == "malformed"


@quick
@given(st.integers(0, len(BLOB) - 1), st.integers(1, 255))
def test_a_blob_with_one_wrong_byte_is_read_or_malformed(at, flip):
    data = bytearray(BLOB)
    data[at] ^= flip
    try:
        messages.unpack(record(bytes(data)))
    except Fault as fault:
        assert fault.code == "malformed"
    assert read_as_reply(record(bytes(data))).code in {"", "malformed"}


def test_a_pickle_is_never_opened(tmp_path):
    trap = pickle.dumps(Boom(tmp_path / "opened"))
    for stype in (messages.BLOB, "numpy.ndarray", "pickle", "torch"):
        with pytest.raises(Fault):
            messages.unpack(record(trap, stype=stype))
        assert read_as_reply(record(trap, stype=stype)).code == "malformed"
    assert not (tmp_path / "opened").exists()
    pickle.loads(trap)
    assert (tmp_path / "opened").is_dir(), "the trap itself does not work"


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"order": MetricRecord({"after": 1})}),
        RecordDict({"other": ConfigRecord(Order()._asdict())}),
        RecordDict({"order": ConfigRecord({"after": 1, "code": "import os"})}),
        RecordDict({"order": ConfigRecord({"_replace": 1})}),
        RecordDict({"order": ConfigRecord({"after": "soon"})}),
        RecordDict({"order": ConfigRecord({"after": 1.5})}),
        RecordDict({"order": ConfigRecord({"after": [1]})}),
        RecordDict({"order": ConfigRecord({"after": -1})}),
        RecordDict({"order": ConfigRecord({"best": b"1"})}),
        RecordDict({"order": ConfigRecord({"scripts": 7})}),
        RecordDict({"order": ConfigRecord({"start_sha256": [1]})}),
        RecordDict({"order": ConfigRecord({"final": "no"})}),
    ],
    ids=lambda content: ";".join(str(dict(r)) for r in content.values()) or "nothing",
)
def test_an_order_that_is_none_is_malformed(content):
    with pytest.raises(Fault) as caught:
        messages.read_order(asked(content))
    assert caught.value.code == "malformed"


def parts(**changes) -> RecordDict:
    records = {"metrics": MetricRecord({"loss": 1.0}), "facts": ConfigRecord({"json": '{"a": 1}'})}
    return RecordDict({k: v for k, v in (records | changes).items() if v is not None})


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        parts(metrics=None),
        parts(facts=None),
        parts(metrics=ConfigRecord({"loss": 1.0})),
        parts(metrics=MetricRecord({"loss": [1.0, 2.0]})),
        parts(facts=ConfigRecord({})),
        parts(facts=ConfigRecord({"json": 3})),
        parts(facts=ConfigRecord({"json": "{"})),
        parts(facts=ConfigRecord({"json": "null"})),
        parts(facts=ConfigRecord({"json": "[1]"})),
        parts(facts=ConfigRecord({"json": "[]"})),
        parts(facts=ConfigRecord({"json": "[[1, 2]]"})),
        parts(facts=ConfigRecord({"json": b"\xff"})),
        parts(facts=ConfigRecord({"json": "9" * 5000})),
        parts(facts=ConfigRecord({"json": "[" * 100_000})),
        parts(facts=ConfigRecord({"json": '{"a":' * 100_000})),
    ],
    ids=lambda content: ";".join(str(dict(r))[:40] for r in content.values()) or "nothing",
)
def test_a_reply_that_is_none_is_malformed(content):
    assert messages.read_reply(replied(content)) == Reply({}, {}, {}, "malformed", 0)


@quick
@given(st.text(max_size=60))
def test_facts_of_any_text_are_read_or_malformed(text):
    reply = messages.read_reply(replied(parts(facts=ConfigRecord({"json": text}))))
    assert reply.code in {"", "malformed"}
    assert isinstance(reply.facts, dict)


def test_an_error_of_the_network_is_an_internal_fault():
    message = Message(Error(code=0, reason="secret"), reply_to=asked(messages.order(Order())))
    assert messages.read_reply(message) == Reply({}, {}, {}, "internal", 0)


@pytest.mark.parametrize("code", CODES)
def test_a_code_arrives_alone(code):
    message = messages.fault(asked(messages.order(Order(), ADAPTER)), code)
    assert list(message.content) == ["fault"]
    assert dict(message.content["fault"]) == {"code": code}
    assert messages.read_reply(message) == Reply({}, {}, {}, code, 0)


@pytest.mark.parametrize("code", ["", "None", "no_such_code", 5, [1], b"internal", None])
def test_a_code_that_is_not_known_is_malformed(code):
    held = ConfigRecord({} if code is None else {"code": code})
    reply = messages.read_reply(replied(RecordDict({"fault": held})))
    assert reply.code == "malformed"


def test_a_fault_says_its_code_in_words_and_its_detail_to_the_own_log_only():
    fault = Fault("malformed", "secret detail")
    assert str(fault) == f"{CODES['malformed']}: secret detail"
    message = messages.fault(asked(messages.order(Order())), fault.code)
    assert "secret" not in repr(message.content) + repr(message.metadata)


def test_a_reply_with_a_fault_brings_nothing_else():
    content = parts(fault=ConfigRecord({"code": "internal"}), update=messages.pack(ADAPTER))
    assert messages.read_reply(replied(content)) == Reply({}, {}, {}, "internal", 0)


def test_arrays_that_travel_as_a_parcel_are_named_and_counted(identity):
    parcel = Parcel("0a" * 32, 123)
    content = messages.order(Order(after=2), ADAPTER, Offer(parcel))
    message = asked(content)
    assert messages.read_order(message) == (Order(after=2), {})
    assert messages.offer_of(message.content) == Offer(parcel)
    assert messages.size(content) == 123
    reply = messages.read_reply(messages.answer(message, {}, {"round": 3}, {}, parcel))
    assert reply == Reply({}, {}, {"round": 3}, "", 123, parcel)


def test_a_delta_is_offered_beside_the_parcel_that_is_named_and_counted(identity):
    parcel, short, start = (
        Parcel(digit * 64, size) for digit, size in (("1", 123), ("2", 4), ("3", 123))
    )
    content = messages.order(Order(), None, Offer(parcel, Delta(short, start)))
    said = asked(content).content
    assert parcels.offered(dict(said.config_records["parcel"])) == Offer(
        parcel, Delta(short, start)
    )
    assert (messages.offer_of(said), messages.size(said)) == (
        Offer(parcel, Delta(short, start)),
        123,
    )
    said.config_records["parcel"]["more"] = str(parcel)
    with pytest.raises(Fault) as caught:
        messages.offer_of(said)
    assert caught.value.code == "malformed"


def test_a_name_that_is_no_parcel_is_malformed(identity):
    content = messages.order(Order(), None, Offer(Parcel("0a" * 32, 123)))
    content.config_records["parcel"]["parcel"] = "../secret"
    with pytest.raises(Fault) as caught:
        messages.offer_of(content)
    assert caught.value.code == "malformed"
    message = asked(messages.order(Order()))
    reply = messages.answer(message, {}, {}, {}, Parcel("0a" * 32, 1))
    reply.content.config_records["parcel"]["parcel"] = "x"
    assert messages.read_reply(reply) == Reply({}, {}, {}, "malformed", 0)


@pytest.mark.parametrize(("visit", "turn"), [(0, 4), (9, 9)])
def test_a_silo_counts_its_own_visits_where_it_is_told_of_them_and_rounds_elsewhere(visit, turn):
    content = messages.order(Order(after=3, visit=visit))
    order, _ = messages.read_order(messages.to(3, "train", content))
    assert (order.round, order.turn) == (4, turn)
    assert messages.round_of(content, "train") == turn
    assert messages.round_of(content, "evaluate") == 3
