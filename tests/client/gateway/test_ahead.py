"""What a message consists of is fetched before the SuperNode has the message: its task never looks too early."""

from __future__ import annotations

import pytest

from fl_client import fleet

RUN, NODE = 7, 1001
NAMES = ["1" * 64, "2" * 64, "3" * 64]


@pytest.fixture
def asking(hub):
    """Let the hub hand out a message of three objects; return how often each object was asked for."""
    asked = dict.fromkeys(NAMES, 0)

    def message(_):
        said = {"run_id": RUN, "message_id": NAMES[0], "dst_node_id": NODE, "message_type": "train"}
        tree = {"object_id": NAMES[0], "children": [{"object_id": name} for name in NAMES[1:]]}
        found = {"messages_list": [{"metadata": said}], "message_object_trees": [tree]}
        return 200, fleet.answering(fleet.PULL_MESSAGES, **found)

    def content(body):
        request = fleet.request(fleet.PULL_OBJECT, body)
        assert (request.run_id, request.node.node_id) == (RUN, NODE)
        asked[request.object_id] += 1
        said = {"object_found": True, "object_available": True}
        text = f"MetricRecord {request.object_id}".encode()
        return 200, fleet.answering(fleet.PULL_OBJECT, object_content=text, **said)

    hub.answers |= {fleet.PULL_MESSAGES: message, fleet.PULL_OBJECT: content}
    return asked


def pull(clinic, name):
    return clinic.call(fleet.PULL_OBJECT, run_id=RUN, object_id=name)


def test_all_objects_are_here_before_the_message_is(hub, clinic, asking):
    assert clinic.call(fleet.PULL_MESSAGES).messages_list[0].metadata.message_id == NAMES[0]
    assert asking == dict.fromkeys(NAMES, 1)
    hub.answers[fleet.PULL_OBJECT] = lambda _: (503, b"")  # what is here needs no line
    found = [pull(clinic, name).object_content for name in NAMES]
    assert found == [f"MetricRecord {name}".encode() for name in NAMES]


def test_an_object_that_was_taken_once_is_asked_for_again(clinic, asking):
    clinic.call(fleet.PULL_MESSAGES)
    for _ in range(3):
        assert pull(clinic, NAMES[1]).object_found
    assert asking[NAMES[1]] == 3


def test_an_object_that_the_hub_is_still_writing_is_left_to_the_supernode(hub, clinic, asking):
    coming = fleet.answering(fleet.PULL_OBJECT, object_found=True, object_available=False)
    later = hub.answers[fleet.PULL_OBJECT]
    hub.answers[fleet.PULL_OBJECT] = lambda _: (200, coming)
    clinic.call(fleet.PULL_MESSAGES)
    hub.answers[fleet.PULL_OBJECT] = later
    assert pull(clinic, NAMES[2]).object_available


def test_a_message_passes_though_its_objects_do_not(hub, clinic, asking):
    hub.answers[fleet.PULL_OBJECT] = lambda _: (404, b"")
    assert clinic.call(fleet.PULL_MESSAGES).messages_list
    assert pull(clinic, NAMES[0]) == 503
