"""What we lean on in flwr 1.41: if an upgrade breaks one of these, it tells us which part of ours to look at."""

from __future__ import annotations

import pytest
from flwr.app import (
    DEFAULT_TTL,
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from fl_client import messages


@pytest.fixture(autouse=True)
def identity():
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def context(**run_config):
    return Context(run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config=run_config)


def test_an_array_keeps_its_bytes_and_its_own_type_of_serialisation():
    blob = bytes(range(256))
    record = ArrayRecord(
        {"blob": Array(dtype="uint8", shape=(256,), stype="safetensors", data=blob)}
    )
    assert record["blob"].data == blob
    assert record["blob"].stype == "safetensors"


def test_a_message_of_ours_lives_longer_than_the_twelve_hours_that_flower_gives_it():
    message = messages.to(2, "train", RecordDict())
    assert message.metadata.ttl == messages.TTL_S > DEFAULT_TTL
    reply = Message(RecordDict(), reply_to=message)
    assert DEFAULT_TTL < reply.metadata.ttl <= messages.TTL_S


def test_records_are_found_by_kind():
    content = RecordDict({"a": ConfigRecord({"x": 1}), "b": MetricRecord({"y": 2.0})})
    assert list(content.config_records) == ["a"]
    assert list(content.metric_records) == ["b"]
    assert list(content.array_records) == []


def test_a_message_type_with_an_action_reaches_the_function_of_that_name():
    app = ClientApp()

    @app.train("alone")
    def alone(message, context):
        return Message(RecordDict({"who": ConfigRecord({"name": "alone"})}), reply_to=message)

    message = Message(RecordDict(), dst_node_id=2, message_type="train.alone")
    reply = app(message, context())
    assert reply.content.config_records["who"]["name"] == "alone"
    assert not reply.has_error()


def test_an_unknown_action_is_refused():
    with pytest.raises(ValueError, match="No train function"):
        ClientApp()(Message(RecordDict(), dst_node_id=2, message_type="train.alone"), context())


def test_the_run_configuration_reaches_a_client_with_scalars_of_their_own_type():
    given = {"a": 1, "b": 2.5, "c": True, "d": "fedprox(mu=0.01)"}
    assert {k: (type(v), v) for k, v in context(**given).run_config.items()} == {
        k: (type(v), v) for k, v in given.items()
    }


def test_a_message_outside_a_task_needs_the_task_identity():
    TaskIdentity._run_id = None
    with pytest.raises(RuntimeError, match="run_id is not set"):
        Message(RecordDict(), dst_node_id=2, message_type="train")
