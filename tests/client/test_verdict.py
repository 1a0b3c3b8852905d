"""A job that did not end well on every rank: who is told what, and when the group starts anew."""

from __future__ import annotations

import pytest
import torch

from fl_client import frames, ranks, verdict
from fl_client.checkpoint import Left
from fl_client.config import ConfigError
from fl_client.messages import Fault
from fl_client.verdict import BROKEN, DONE, End
from fl_client.workers import Result


class Notes(dict):
    """The store in which ranks leave notes; waiting for one that is not there fails at once."""

    def set(self, key, value):
        self[key] = value.encode()

    def wait(self, keys, timeout):
        if any(key not in self for key in keys):
            raise RuntimeError("timed out")


@pytest.fixture
def notes(monkeypatch):
    """Make this process rank 0 of three; the test writes the others' notes."""
    held = Notes()
    monkeypatch.setattr(ranks, "world", lambda: 3)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    monkeypatch.setattr(ranks, "notes", lambda: held)
    monkeypatch.setattr(verdict, "PATIENCE_S", 0.0)
    return held


def raises(error):
    def work():
        raise error

    return work


def code(answer: bytes) -> str:
    with pytest.raises(Fault) as caught:
        frames.result(answer)
    return caught.value.code


def test_work_that_ends_well_is_its_result():
    end = verdict.attempt(lambda: Result({}, {"loss": 1.0}, {}))
    assert end.state == DONE
    assert frames.result(end.answer).metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("error", "state", "told"),
    [
        (Fault("not_finite", "nan"), "not_finite", "not_finite"),
        (MemoryError(), "out_of_memory", "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "out_of_memory"),
        (KeyError("x"), BROKEN, "internal"),
        (RuntimeError("Connection reset by peer"), BROKEN, "internal"),
    ],
)
def test_work_that_fails_is_its_code(error, state, told):
    end = verdict.attempt(raises(error))
    assert end.state == state
    assert code(end.answer) == told


def test_work_that_is_refused_is_its_sentence():
    end = verdict.attempt(raises(ConfigError("choose another")))
    with pytest.raises(ConfigError, match="choose another"):
        frames.result(end.answer)


def test_the_text_of_an_unexpected_error_stays_in_the_log(caplog):
    end = verdict.attempt(raises(KeyError("a line of somebody's text")))
    assert b"somebody" not in end.answer
    assert "somebody" in caplog.text


def test_leaving_is_no_failure():
    with pytest.raises(Left):
        verdict.attempt(raises(Left("asked to leave")))


@pytest.mark.parametrize(
    ("state", "goes_on"), [(DONE, True), ("not_finite", True), (BROKEN, False)]
)
def test_one_rank_alone_goes_on_unless_something_broke(state, goes_on):
    assert verdict.settle(1, End(b"answer", state)) == (b"answer", goes_on)


def test_a_first_rank_that_is_done_answers_without_waiting_for_the_others(notes):
    assert verdict.settle(1, End(b"answer", DONE)) == (b"answer", True)
    assert notes == {"1/0": b"done"}


def test_where_all_ranks_came_to_the_same_plain_end_the_group_goes_on(notes):
    notes |= {"4/1": b"not_finite", "4/2": b"not_finite"}
    assert verdict.settle(4, End(b"answer", "not_finite")) == (b"answer", True)
    assert notes["4/verdict"] == b"on"


@pytest.mark.parametrize(
    "others", [{}, {"4/1": b"out_of_memory"}, {"4/1": b"broken", "4/2": b"broken"}]
)
def test_a_first_rank_that_fails_alone_says_why_and_the_group_starts_anew(others, notes):
    notes |= others
    answer = frames.of_error(Fault("out_of_memory"))
    assert verdict.settle(4, End(answer, "out_of_memory")) == (answer, False)
    assert "4/verdict" not in notes


def test_another_rank_that_failed_alone_is_who_says_why(notes):
    notes |= {"4/1": b"broken", "4/2": b"out_of_memory"}
    answer, goes_on = verdict.settle(4, End(frames.of_error(Fault("internal")), BROKEN))
    assert code(answer) == "out_of_memory"
    assert not goes_on


def test_a_rank_that_died_has_said_nothing_and_the_job_is_asked_again(notes):
    notes |= {"4/1": b"broken"}
    assert verdict.settle(4, End(b"answer", BROKEN)) == (b"", False)


def test_where_something_broke_on_all_ranks_the_job_is_answered_and_not_asked_again(notes):
    notes |= {"4/1": b"broken", "4/2": b"broken"}
    assert verdict.settle(4, End(b"answer", BROKEN)) == (b"answer", False)


def test_the_notes_of_an_earlier_job_are_not_those_of_this_one(notes):
    notes |= {"3/1": b"not_finite", "3/2": b"not_finite"}
    assert verdict.settle(4, End(b"answer", "not_finite")) == (b"answer", False)


@pytest.mark.parametrize("state", ["not_finite", BROKEN])
def test_another_rank_goes_on_where_the_first_says_so(state, notes, monkeypatch):
    monkeypatch.setattr(ranks, "rank", lambda: 2)
    assert verdict.settle(4, End(b"", state)) == (b"", False)
    assert notes == {"4/2": state.encode()}
    notes.set("4/verdict", "on")
    assert verdict.settle(4, End(b"", state)) == (b"", True)


def test_a_rank_that_is_asked_to_leave_waits_for_no_word(notes, monkeypatch):
    monkeypatch.setattr(verdict, "PATIENCE_S", 1e6)
    monkeypatch.setattr(ranks, "leaving", lambda: True)
    assert verdict.settle(4, End(b"answer", BROKEN)) == (b"", False)
