"""Numbers and facts leave with the names that a policy has and values of their kind, and no text beside."""

from __future__ import annotations

import json
import tomllib

import pytest
from flwr.app import ConfigRecord, MetricRecord

from fl_client import metrics, policy, spec
from fl_client.gateway import contents, facts
from fl_client.gateway.announced import Place
from fl_client.policy import Policy
from strategies.scope import languages
from tasks.task import Example

TEXT = "Ward 3: the patient's name"
WORD = "Patient_name"
EGRESS = Policy.model_validate(
    tomllib.loads(policy.TEXT.format(federation='"Demo"', base=f'"{"b" * 64}"', tasks="[]"))
).egress
HONEST = {
    "silo": "clinic-a",
    "round": 12,
    "languages": {"as": [10, 2000, 900, 700], "sat-Olck": [1, 2, 3, 4]},
    "base": "b" * 64,
    "rank": 8,
    "peft": {"target_modules": ["q_proj", "mlp.down_proj"]},
    "served": "blend",
    "alone_lr": 0.005,
}


def fits(record):
    return contents.fits(record.deflate(), EGRESS, Place(2, frozenset()), "clinic-a")


def told(**said):
    return fits(ConfigRecord({"json": json.dumps(said, sort_keys=True)}))


def test_a_new_policy_names_the_facts_that_can_be_checked_and_no_others():
    assert set(EGRESS.facts) == set(HONEST) == {"silo", *facts.FACTS}


def test_what_silos_tell_leaves_one_by_one_and_all_together():
    assert told(**HONEST)
    assert all(told(**{name: value}) for name, value in HONEST.items())
    assert told(alone_lr=None) and told(languages={})


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize(
    "value",
    [TEXT, WORD, [TEXT], {TEXT: 1}, {"as": TEXT}, True, -1, float("nan"), "", [[]]],
    ids=str,
)
def test_a_fact_of_any_other_kind_does_not_leave(name, value):
    assert not told(**{name: value})


@pytest.mark.parametrize(
    "said",
    [
        {"silo": "clinic-b"},
        {"round": 1.0},
        {"round": 1 << 50},
        {"languages": {WORD: [1, 2, 3, 4]}},
        {"languages": {"as": [1, 2, 3]}},
        {"languages": {"as": [1, 2, 3, 4, 5]}},
        {"languages": {"as": [1, 2, 3, "4"]}},
        {"languages": {"as": [1, 2, 3, 1 << 50]}},
        {"base": "B" * 64},
        {"rank": 1025},
        {"peft": HONEST["peft"] | {"base_model_name_or_path": "/home/dr.rao"}},
        {"peft": {"target_modules": [TEXT]}},
        {"peft": {"target_modules": "q_proj"}},
        {"peft": {"base_model_name_or_path": ["q_proj"]}},
        {"served": "clinic-a"},
        {"alone_lr": float("inf")},
        {"other": 1},
    ],
    ids=str,
)
def test_a_fact_of_its_kind_that_no_silo_tells_does_not_leave(said):
    assert not told(**said)


def test_a_fact_that_no_silo_tells_does_not_leave_though_a_policy_lets_all_out():
    most = EGRESS.model_copy(update={"facts": ("*",)})
    assert facts.fact("silo", "clinic-a", most, "clinic-a")
    assert not facts.fact("text", 1, most, "clinic-a")


NAMES = ["loss", "codec_reset", "left_behind", "valid", "lr", "step", "blend_share"]
NAMES += [f"{what}/as/{score}" for what in metrics.CANDIDATES for score in metrics.SCORES]
NAMES += [f"valid/sat-Olck/{score}" for score in metrics.SCORES]
NAMES += [f"{what}/{rank}" for what in metrics.EFFORT for rank in (0, 1023)]


@pytest.mark.parametrize("name", NAMES)
def test_a_number_of_each_name_that_silos_have_leaves(name):
    assert fits(MetricRecord({name: 1.0}))


@pytest.mark.parametrize(
    "name",
    [
        f"valid/{TEXT}/bits",
        f"valid/{WORD}/bits",
        f"valid/as/{WORD}",
        "valid/as/",
        "valid//bits",
        "valid/AS/bits",
        f"efficiency/{WORD}",
        "efficiency/1024",
    ],
)
def test_a_number_with_text_in_its_name_does_not_leave(name):
    assert not fits(MetricRecord({name: 1.0}))


def test_of_every_language_that_is_known_scores_may_leave():
    assert all(facts.number(f"valid/{lang}/bits", EGRESS) for lang in languages())


@pytest.mark.parametrize(
    "task", ["translate()", "classify(labels='a,b')", "instruct()", "causal_lm()"]
)
def test_the_scores_of_every_task_may_leave(task):
    made = spec.build(task, "task")
    found = made.score(["a"], [Example("a", "as")]) if made.score else {}
    assert set(found) <= set(metrics.SCORES)


def test_no_task_is_left_out():
    assert set(spec.factories("task")) == {"translate", "classify", "instruct", "causal_lm"}
