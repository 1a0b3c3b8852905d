"""Flower's silo API as the gateways read it: what a body may be, and nothing else gets through."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import fleet

NAME = "a" * 64


def announced(**metadata):
    said = {"run_id": 7, "message_id": NAME, "reply_to_message_id": "asked"} | metadata
    tree = {"object_id": NAME, "children": [{"object_id": "b" * 64}, {"object_id": "b" * 64}]}
    return {"messages_list": [{"metadata": said}], "message_object_trees": [tree]}


def read(**fields):
    return fleet.reply(
        fleet.request(fleet.PUSH_MESSAGES, fleet.asking(fleet.PUSH_MESSAGES, **fields))
    )


def test_a_reply_names_its_objects_once_children_first():
    found = read(**announced(group_id="3"))
    assert found == fleet.Reply(7, NAME, "asked", "3", ("b" * 64, NAME))


@pytest.mark.parametrize(
    "changes",
    [
        {"messages_list": []},
        {"messages_list": announced()["messages_list"] * 2},
        {"message_object_trees": []},
        {"message_object_trees": announced()["message_object_trees"] * 2},
        {"message_object_trees": [{"object_id": "../../roster"}]},
        {"message_object_trees": [{"object_id": "A" * 64}]},
        announced(reply_to_message_id=""),
    ],
)
def test_what_is_not_one_reply_with_one_tree_is_no_reply(changes):
    with pytest.raises(ValueError, match="not"):
        read(**(announced() | changes))


def test_a_tree_too_deep_to_be_one_is_unreadable():
    tree = {"object_id": NAME}
    for _ in range(200):
        tree = {"object_id": NAME, "children": [tree]}
    body = fleet.asking(fleet.PUSH_MESSAGES, message_object_trees=[tree])
    with pytest.raises(ValueError, match="no PushMessagesRequest"):
        fleet.request(fleet.PUSH_MESSAGES, body)


def test_every_node_that_a_request_speaks_for_is_found():
    said = announced(src_node_id=2) | {"node": {"node_id": 1}}
    asked = fleet.request(fleet.PUSH_MESSAGES, fleet.asking(fleet.PUSH_MESSAGES, **said))
    assert fleet.node_ids(asked) == {1, 2}
    asked = fleet.request(fleet.DEACTIVATE, fleet.asking(fleet.DEACTIVATE, node_id=3))
    assert fleet.node_ids(asked) == {3}
    asked = fleet.request(fleet.REGISTER, fleet.asking(fleet.REGISTER, public_key=b"x"))
    assert fleet.node_ids(asked) == set()


def test_a_run_says_its_bundle_and_its_changes_with_their_types():
    config = {"a": {"sint64": 1}, "b": {"double": 2.5}, "c": {"bool": True}, "d": {"string": "x"}}
    said = {"run_id": 7, "fab_hash": NAME, "override_config": config}
    body = fleet.answering(fleet.GET_RUN, run=said)
    found = fleet.run(fleet.response(fleet.GET_RUN, body))
    assert found == fleet.Run(7, NAME, {"a": 1, "b": 2.5, "c": True, "d": "x"})
    assert {type(value) for value in found.config.values()} == {int, float, bool, str}


@pytest.mark.parametrize("value", [{"bytes": b"x"}, {}], ids=["bytes", "nothing"])
def test_a_setting_that_is_no_scalar_is_refused(value):
    body = fleet.answering(fleet.GET_RUN, run={"override_config": {"a": value}})
    with pytest.raises(ValueError, match="setting a"):
        fleet.run(fleet.response(fleet.GET_RUN, body))


def test_an_answer_without_a_message_carries_none():
    assert fleet.pulled(fleet.response(fleet.PULL_MESSAGES, b"")) is None
    without_tree = fleet.answering(fleet.PULL_MESSAGES, messages_list=[{"metadata": {"run_id": 7}}])
    assert fleet.pulled(fleet.response(fleet.PULL_MESSAGES, without_tree)) is None


@pytest.mark.parametrize(
    ("fields", "coming"),
    [
        ({"object_found": True}, True),
        ({"object_found": False}, False),
        ({"object_found": True, "object_available": True, "object_content": b"x"}, False),
        ({"object_found": True, "object_available": True, "object_content": bytes(9999)}, False),
    ],
)
def test_an_object_that_is_known_but_not_written_is_coming(fields, coming):
    assert fleet.coming(fleet.answering(fleet.PULL_OBJECT, **fields)) is coming


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(fleet.PATHS)), st.binary(max_size=200))
def test_rubbish_is_unreadable_and_nothing_worse(path, body):
    with contextlib.suppress(ValueError):
        asked = fleet.request(path, body)
        fleet.node_ids(asked)
        if path == fleet.PUSH_MESSAGES:
            fleet.reply(asked)
    with contextlib.suppress(ValueError):
        answer = fleet.response(path, body)
        read = {fleet.PULL_MESSAGES: fleet.pulled, fleet.GET_RUN: fleet.run}.get(path)
        if read:
            read(answer)
