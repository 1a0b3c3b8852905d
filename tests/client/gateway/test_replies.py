"""What leaves in a reply of Flower's own making: kinds, numbers, facts, how much of it, and no words of an error."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, MetricRecord, RecordDict

from fl_client import audit, fleet, messages
from fl_client.gateway import contents, egress
from fl_client.messages import CODES

RUN = 7
SESSION = "s" * 64


@pytest.fixture
def heard(hub):
    """Let the hub ask for every object that is announced, and count what it gets."""

    def announced(body):
        reply = fleet.reply(fleet.request(fleet.PUSH_MESSAGES, body))
        return 200, fleet.answering(
            fleet.PUSH_MESSAGES, objects_to_push=reply.objects, session_id=reply.message
        )

    def brought(body):
        asked = fleet.request(fleet.PUSH_OBJECT, body)
        right = hashlib.sha256(asked.object_content).hexdigest() == asked.object_id
        return 200, fleet.answering(fleet.PUSH_OBJECT, stored=right)

    hub.answers |= {fleet.PUSH_MESSAGES: announced, fleet.PUSH_OBJECT: brought}
    return hub


def push(clinic, reply):
    """Push a reply as the SuperNode does; return the statuses of its calls, 200 where an object was stored."""
    taken = clinic.call(fleet.PUSH_MESSAGES, **reply.request)
    if isinstance(taken, int):
        return [taken]
    statuses = [200]
    assert set(taken.objects_to_push) == set(reply.objects)
    for name in taken.objects_to_push:
        back = clinic.call(
            fleet.PUSH_OBJECT, run_id=RUN, session_id=taken.session_id, object_id=name,
            object_content=reply.objects[name],
        )  # fmt: skip
        statuses.append(back if isinstance(back, int) else 200 if back.stored else 0)
    return statuses


def content(size=1000, metrics=None, facts=None):
    said = {"metrics": MetricRecord(metrics or {"loss": 1.0})}
    said["facts"] = ConfigRecord({"json": json.dumps(facts or {"silo": "clinic-a", "round": 1})})
    said["update"] = messages.pack({"values": np.arange(size, dtype=np.uint8)})
    return RecordDict(said)


def received(hub):
    return [fleet.request(each.path, each.body) for each in hub.got if each.path in fleet.PATHS]


def test_a_reply_passes_byte_for_byte(heard, clinic, write):
    reply = write(content())
    assert set(push(clinic, reply)) == {200}
    announced, *brought = received(heard)
    assert announced.messages_list[0] == reply.request["messages_list"][0]
    assert {each.object_id: each.object_content for each in brought} == reply.objects
    assert not heard.told()


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_of_the_fixed_list_passes(heard, clinic, write, code):
    reply = write(RecordDict({"fault": ConfigRecord({"code": code})}))
    assert set(push(clinic, reply)) == {200}


@pytest.mark.parametrize(
    "said",
    [
        RecordDict({"fault": ConfigRecord({"code": "the patient's name"})}),
        RecordDict({"facts": ConfigRecord({"json": '{"text": "raw"}'})}),
        RecordDict({"facts": ConfigRecord({"json": '["raw"]'})}),
        RecordDict({"facts": ConfigRecord({"json": "raw"})}),
        RecordDict({"facts": ConfigRecord({"raw": "text"})}),
        RecordDict({"facts": ConfigRecord({"json": b"{}"})}),
        RecordDict({"facts": ConfigRecord({"json": ["{}"]})}),
        RecordDict({"metrics": MetricRecord({"the patient's name": 1.0})}),
        RecordDict({"metrics": MetricRecord({"loss": 1.0, "loss ": 1.0})}),
        RecordDict({"raw text": MetricRecord({"loss": 1.0})}),
    ],
)
def test_a_number_or_fact_that_the_policy_does_not_name_is_refused(heard, clinic, write, said):
    assert 403 in push(clinic, write(said))
    assert set(heard.told()) == {(RUN, "content_not_allowed")}


def test_a_table_that_is_too_long_is_said_to_be_that(heard, clinic, write):
    facts = ConfigRecord({"json": json.dumps({"silo": "x" * 70_000})})
    assert 403 in push(clinic, write(RecordDict({"facts": facts})))
    assert set(heard.told()) == {(RUN, "content_too_long")}


def test_a_policy_may_let_more_out_or_less(heard, clinic, write):
    reply = write(content(metrics={"loss": 1.0, "gradient/norm": 2.0}))
    assert 403 in push(clinic, reply)
    clinic.allow('"loss", ', '"loss", "gradient/norm", ')
    assert set(push(clinic, reply)) == {200}
    clinic.allow('"silo", "round", ', "")
    assert 403 in push(clinic, reply)


def test_a_kind_of_message_that_the_policy_does_not_name_is_not_answered(heard, clinic, write):
    clinic.allow('"train.alone", ', "")
    assert push(clinic, write(content(), kind="train.alone")) == [403]
    assert heard.told() == [(RUN, "kind_not_allowed")]
    assert fleet.PUSH_MESSAGES not in heard.paths()


def test_what_is_no_object_of_a_reply_is_refused(heard, clinic):
    for rubbish in (b"", b"raw text", b"Message  4\0\xff\xff\xff\xff", b"Raw  1\0x", b"\0"):
        fields = {"run_id": RUN, "session_id": SESSION, "object_id": "0" * 64}
        assert clinic.call(fleet.PUSH_OBJECT, **fields, object_content=rubbish) == 403
    assert fleet.PUSH_OBJECT not in heard.paths()


def test_an_announcement_that_carries_content_itself_is_refused(heard, clinic, write):
    reply = write(content())
    item = reply.request["messages_list"][0].content.items.add(key="raw")
    item.config_record.items.add(key="raw").value.string = "text"
    assert push(clinic, reply) == [403]
    assert fleet.PUSH_MESSAGES not in heard.paths()


def test_the_words_of_an_error_do_not_leave_and_the_rest_of_it_does(heard, clinic, write):
    reply = write(Error(code=2, reason="<class 'OSError'>:<'/home/ward/patients.csv'>"))
    assert set(push(clinic, reply)) == {200}
    assert not [each for each in heard.got if b"patients" in each.body or b"OSError" in each.body]
    announced, brought = received(heard)
    from flwr.app import Message

    arrived = Message.inflate(brought.object_content)
    assert (arrived.error.code, arrived.error.reason) == (2, None)
    assert arrived.object_id == brought.object_id == announced.messages_list[0].metadata.message_id
    assert announced.messages_list[0].error.code == 2
    assert fleet.reply(announced).objects == (brought.object_id,)


def test_words_are_taken_out_in_the_same_way_on_both_calls(write):
    reply = write(Error(code=1, reason="why"))
    asked = fleet.request(fleet.PUSH_MESSAGES, fleet.asking(fleet.PUSH_MESSAGES, **reply.request))
    ((old, new),) = contents.quiet_reply(asked).items()
    bare = contents.quiet(reply.objects[old])
    assert hashlib.sha256(bare).hexdigest() == new
    assert contents.quiet(bare) == bare


def test_a_reply_of_a_run_that_is_no_longer_allowed_does_not_leave(heard, clinic, write):
    reply = write(content())
    clinic.allow("max_rank = 64", "max_rank = 1")
    assert push(clinic, reply) == [403]
    assert heard.told() == [(RUN, "rank_too_high")]


def test_a_reply_above_the_rounds_cap_is_refused_with_at_most_the_cap_gone(heard, clinic, write):
    clinic.allow("max_bytes_per_round = 1073741824", "max_bytes_per_round = 5000")
    assert set(push(clinic, write(content(size=1000)))) == {200}
    assert 403 in push(clinic, write(content(size=6000), group="2"))
    assert "egress_too_large" in heard.codes() and not heard.told()
    sizes = [
        len(each.object_content) for each in received(heard) if hasattr(each, "object_content")
    ]
    assert sum(sizes) <= 2 * 5000


def test_all_replies_of_a_round_count_together(heard, clinic, write):
    clinic.allow("max_bytes_per_round = 1073741824", "max_bytes_per_round = 5000")
    assert set(push(clinic, write(content(size=3000), group="1"))) == {200}
    assert 403 in push(clinic, write(content(size=3001), kind="evaluate", group="1"))
    assert set(push(clinic, write(content(size=3001), group="2"))) == {200}


def test_where_no_round_is_named_each_reply_counts_by_itself(heard, clinic, write):
    clinic.allow("max_bytes_per_round = 1073741824", "max_bytes_per_round = 5000")
    assert set(push(clinic, write(content(size=3000), group=""))) == {200}
    assert set(push(clinic, write(content(size=3001), group=""))) == {200}


def test_an_object_that_is_sent_again_counts_once_in_its_round(heard, clinic, write):
    clinic.allow("max_bytes_per_round = 1073741824", "max_bytes_per_round = 5000")
    reply = write(content(size=3000))
    for _ in range(3):
        assert set(push(clinic, reply)) == {200}


def test_a_day_is_capped_over_all_runs_and_a_restart_does_not_forget(heard, clinic, write):
    clinic.allow("max_bytes_per_day = 17179869184", "max_bytes_per_day = 20000")
    assert set(push(clinic, write(content(size=8000)))) == {200}
    clinic.stop()
    clinic.start()
    assert 403 in push(clinic, write(content(size=12_000)))
    assert "egress_too_large" in heard.codes() and not heard.told()
    assert sum(each.bytes for each in audit.read(clinic.folder)) < 20_000


def test_a_new_day_starts_from_nothing(tmp_path, monkeypatch):
    most = egress.Egress(
        kinds=(), metrics=(), facts=(), max_bytes_per_round=100, max_bytes_per_day=100
    )
    meter = egress.Meter(tmp_path)
    meter.count(60)
    assert not meter.fits("s", RUN, "o", 60, most)
    monkeypatch.setattr(egress, "_today", lambda: "2126-01-01")
    assert meter.fits("s", RUN, "o", 60, most)


def test_the_record_names_study_and_round(heard, clinic, write):
    push(clinic, write(content(), group="12"))
    rows = {(each.kind, each.study, each.round) for each in clinic.record()}
    assert (fleet.PUSH_MESSAGES, "small", "12") in rows
    assert (fleet.PUSH_OBJECT, "small", "12") in rows
    clinic.call(fleet.CONFIRM, run_id=RUN)
    assert clinic.record()[-1][1:4] == ("small", "", fleet.CONFIRM)


def test_arrays_in_one_chunk_pass_and_larger_ones_which_travel_as_parcels_do_not(
    heard, clinic, write
):
    assert set(push(clinic, write(content(size=5_000_000)))) == {200}
    reply = write(content(size=7 << 20))
    assert max(map(len, reply.objects.values())) > 5_000_000
    assert 403 in push(clinic, reply)
