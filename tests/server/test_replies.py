"""Numbers that silos tell of held-out text: those that are no scores are refused, whoever is to count on them."""

from __future__ import annotations

import math

import pytest

from fl_client import messages
from fl_client.messages import Reply
from fl_server import replies
from fl_server.replies import Refused
from fl_server.silos import Silo
from strategies.weights.weight import Counts

BITS = ("base", "together", "alone")


def reply(numbers=None, code="", **facts):
    """Return what an honest silo tells at the end, but for these numbers and facts; None leaves one out."""
    told = {"valid/as/bits": 90.0, "valid/as/bytes": 60.0}
    told |= {f"{what}/as/bits": 80.0 + n for n, what in enumerate(BITS)}
    told |= {f"{what}/as/bytes": 50.0 for what in BITS}
    told = {name: number for name, number in (told | (numbers or {})).items() if number is not None}
    said = {"served": "together", "alone_lr": 0.005} | facts
    return Reply({}, told, said, code, 0)


def test_honest_scores_are_taken_as_they_are():
    assert replies.scores(reply(), "valid") == {"as": {"bits": 90.0, "bytes": 60.0}}
    found = replies.final(reply({"alone/as/accuracy": 70.0}))
    assert found["alone"] == {"as": {"bits": 82.0, "bytes": 50.0, "accuracy": 70.0}}
    assert (found["adapted"], found["blend"], found["blend_share"]) == ({}, {}, None)
    assert (found["served"], found["alone_lr"]) == ("together", 0.005)


LIES = {
    "no bytes": {"/as/bytes": None},
    "no bits": {"/as/bits": None},
    "bytes of nothing": {"/as/bytes": 0.0},
    "less than a byte": {"/as/bytes": 5e-324},
    "bytes without an end": {"/as/bytes": math.inf},
    "bits that are no number": {"/as/bits": math.nan},
    "bits without an end": {"/as/bits": math.inf},
    "bits that no sum holds": {"/as/bits": 1e308},
    "bits below zero": {"/as/bits": -1.0},
    "a score that is no number": {"/as/accuracy": math.nan},
    "a language that is none": {"/../as/bits": 1.0, "/../as/bytes": 1.0},
    "no language": {"/bits": 1.0, "/bytes": 1.0},
}


@pytest.mark.parametrize("lie", LIES)
def test_numbers_that_are_no_scores_are_refused(lie):
    for what in ("valid", "alone"):
        told = reply({what + name: number for name, number in LIES[lie].items()})
        with pytest.raises(Refused, match="no scores"):
            replies.scores(told, what) if what == "valid" else replies.final(told)


CLAIMS = {
    "nothing": {"served": None},
    "another name": {"served": "another"},
    "no name": {"served": ["together"]},
    "what it has no scores of": {"served": "adapted"},
    "a blend of no share": {"served": "blend"},
    "a rate that is no number": {"alone_lr": math.nan},
    "a rate in words": {"alone_lr": "fast"},
    "a rate that no machine holds": {"alone_lr": 10**400},
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_silo_that_says_what_cannot_be_of_what_it_serves_is_refused(claim):
    blend = {"blend/as/bits": 70.0, "blend/as/bytes": 50.0} if "blend" in claim else {}
    with pytest.raises(Refused):
        replies.final(reply(blend, **CLAIMS[claim]))


@pytest.mark.parametrize("share", [math.nan, -0.1, 1.1])
def test_a_share_of_a_blend_is_from_0_to_1(share):
    blend = {"blend/as/bits": 70.0, "blend/as/bytes": 50.0}
    assert (
        replies.final(reply(blend | {"blend_share": 0.25}, served="blend"))["blend_share"] == 0.25
    )
    with pytest.raises(Refused, match="of its blend"):
        replies.final(reply(blend | {"blend_share": share}))


def test_a_silo_that_did_not_train_alone_has_no_rate_and_one_that_scores_nothing_serves_unseen():
    told = reply()
    del told.facts["alone_lr"]
    assert replies.final(told)["alone_lr"] is None
    unseen = Reply({}, {}, {"served": "together"}, "", 0)
    assert replies.scores(unseen, "valid") == replies.final(unseen)["together"] == {}


def test_a_code_is_told_in_its_words():
    for read in (replies.final, lambda told: replies.scores(told, "valid")):
        with pytest.raises(Refused, match=messages.CODES["internal"]):
            read(reply(code="internal"))


SILO = Silo(1, "as-1", {"as": Counts(1, 9, 8, 3)}, "")


def noted(facts=None, numbers=None):
    return replies.note(SILO, Reply({}, {"loss": 1.0} | (numbers or {}), facts or {}, "", 0), 1)


def test_how_a_silo_trained_is_noted_as_it_says_where_that_can_be():
    note = noted({"cohort": 10, "apart": "cores are trained"})
    assert (note["cohort"], note["apart"]) == (10, "cores are trained")
    assert noted({"apart": "अ" * 5000})["apart"] == "अ" * 100


@pytest.mark.parametrize("cohort", [10**4000, 1 << 20, 0, -1, 2.0, True, "2", None])
def test_a_cohort_that_no_machine_trains_is_not_noted(cohort):
    assert "cohort" not in noted({"cohort": cohort})


@pytest.mark.parametrize("apart", ["\ud800", "\x1b[31m", "two\nlines", ["why"], None])
def test_words_that_cannot_be_written_or_shown_are_not_noted(apart):
    assert "apart" not in noted({"cohort": 1, "apart": apart})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 1e308])
def test_numbers_that_no_sum_holds_are_not_noted(number):
    names = ("tokens_s/0", "left_behind", "loss")
    note = noted(numbers=dict.fromkeys(names, number) | {"efficiency/0": 0.5})
    assert note == {"loss": None, "up": 0, "ranks": {"efficiency": {"0": 0.5}}}


def test_of_a_worker_group_no_more_than_1024_processes_are_noted():
    ranks = [*map(str, range(20_000)), "٣", "007", "9" * 9999, "-1", ""]
    note = noted(numbers={f"tokens_s/{rank}": 1.0 for rank in ranks})
    assert list(note["ranks"]["tokens_s"]) == [*map(str, range(1024))]


def test_a_silo_that_answers_for_another_in_very_many_words_is_refused_in_few():
    long = "x" * 5_000_000
    for facts in ({"silo": long, "round": 1}, {"silo": "as-1", "round": long}):
        told = Reply({}, {}, facts, "", 0)
        with pytest.raises(Refused, match="it answers for 'x|it answers for 'as-1'") as refused:
            replies.check(SILO, told, {}, 1, None, 7)
        assert len(str(refused.value)) <= 300
    assert len(str(Refused(long))) == 300
