"""Whose update a worker brings: one is sent ahead only where it cannot go under another run than its own."""

from __future__ import annotations

import pytest

from fl_client import fleet, posted
from fl_client.fleet import Pulled
from fl_client.gateway import given
from fl_client.gateway import parcels as trips

from .desk import RUN, kept, push, reply_naming, until

OTHER = 8
A, B = "a" * 64, "b" * 64  # messages; replies that tests write answer the first


def pulled(message, run=RUN):
    return Pulled(run, message, "train", "3", frozenset(), 0.0)


def noted(*messages):
    made = given.Given()
    for each in messages:
        made.note(each)
    return made


def test_the_newest_message_of_the_only_run_is_the_one_in_work():
    assert noted().current() is None
    assert noted(pulled("1"), pulled("2")).current() == pulled("2")
    assert noted(pulled("1"), pulled("2"), pulled("1")).current() == pulled("1")


def test_with_messages_of_two_runs_none_is_known_to_be_in_work_until_the_newer_is_answered():
    made = noted(pulled("1", 7), pulled("2", 8))
    assert made.current() is None
    made.answered("3")
    assert made.current() is None
    made.note(pulled("3", 8))
    made.answered("2")
    assert made.current() == pulled("3", 8)
    made.answered("3")
    assert made.current() is None


def test_messages_that_are_never_answered_are_forgotten():
    made = noted(pulled("first", 7), *(pulled(str(n), 8) for n in range(given.KEPT)))
    assert made.current() == pulled(str(given.KEPT - 1), 8)


def test_an_update_is_not_sent_ahead_under_a_run_whose_message_came_later(
    hub, desk, clinic, write, asked
):
    hub.sign(run=OTHER)
    parcel, content = kept(clinic)
    asked(clinic, run=RUN, message=A)
    asked(clinic, run=OTHER, message=B)  # of which the worker knows nothing yet
    posted.say(clinic.folder, parcel)
    reply = write(reply_naming(parcel), group="3")  # of the first run, which says whose it is
    assert set(push(clinic, reply).values()) == {200}
    assert desk.held == content
    assert {each[2]["run"] for each in desk.asked} == {str(RUN)}


def test_an_update_is_sent_ahead_again_once_there_is_one_run(hub, desk, clinic, write, asked):
    hub.sign(run=OTHER)
    parcel, content = kept(clinic)
    asked(clinic, run=OTHER, message=B)
    asked(clinic, run=RUN, message=A)
    posted.say(clinic.folder, parcel)
    clinic.call(fleet.HEARTBEAT, heartbeat_interval=30)
    assert not desk.asked
    push(clinic, write(reply_naming(parcel), group="3"))
    desk.asked.clear()
    asked(clinic, run=RUN, message=B)
    posted.say(clinic.folder, parcel)
    until(lambda: desk.asked)
    assert {each[2]["run"] for each in desk.asked} == {str(RUN)}
    assert desk.held == content


@pytest.mark.parametrize("first", [RUN, OTHER])
def test_a_run_that_is_over_does_not_end_the_way_of_an_update_under_another(
    hub, desk, clinic, write, monkeypatch, first
):
    monkeypatch.setattr(trips, "WAIT_S", 0.3)
    hub.sign(run=OTHER)
    second = RUN + OTHER - first
    parcel, content = kept(clinic)
    desk.status = 503
    assert push(clinic, write(reply_naming(parcel), run=first))["parcel"] == 503
    desk.status = None
    until(lambda: push(clinic, write(reply_naming(parcel), run=second))["parcel"] == 200)
    assert desk.held == content
    assert str(second) in {each[2]["run"] for each in desk.asked}
