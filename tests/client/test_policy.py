"""A silo's policy: what is not written is not allowed. How it is held against studies is in gateway/test_runs.py."""

from __future__ import annotations

import pytest

from fl_client import bundle, limits, messages, metrics, policy
from fl_client.config import ConfigError, Study, from_flat
from fl_client.policy import Policy
from fl_client.refusals import REFUSALS
from fl_client.signed import Signed
from fl_client.silo import Folder

BASE = "b" * 64


@pytest.fixture
def folder(tmp_path):
    policy.create(tmp_path, BASE, "Demo")
    return tmp_path


def signed(study=None, **changes):
    whole = {"federation": "Demo", "bundle": bundle.sha256(), "silos": ("a",), "made": ""}
    return Signed(study or Study(), **(whole | changes))


def change(folder, before, after):
    path = Folder(folder).policy
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_a_new_policy_admits_the_default_study_of_its_own_federation_and_version(folder):
    rules = policy.read(folder)
    assert rules.base.sha256 == (BASE,)
    assert policy.admit(rules, signed()) == ""
    assert policy.admit(rules, signed(from_flat({"task": "translate(source='en')"}))) == ""


def test_every_key_has_a_comment_before_it(folder):
    lines = Folder(folder).policy.read_text().splitlines()
    keys = [at for at, line in enumerate(lines) if " = " in line and not line.startswith("#")]
    for at in keys:
        table = max(i for i, line in enumerate(lines[:at]) if line.startswith("["))
        assert any(line.startswith("# ") for line in lines[table:at])


def test_a_policy_is_not_overwritten(folder):
    with pytest.raises(ConfigError, match="is there already; it is not overwritten"):
        policy.create(folder, BASE, "Other")


@pytest.mark.parametrize("name", ['Démo "two"', "असम", "back\\slash"])
def test_any_name_of_a_federation_survives_the_file(tmp_path, name):
    policy.create(tmp_path, BASE, name)
    assert policy.read(tmp_path).hub.federation == name


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("max_rank = 64", "", "'study.max_rank' is missing"),
        ("max_rank = 64", "max_rank = -1", "study.max_rank=-1 is not allowed"),
        ("max_rank = 64", "max_rank = 64\nmax_rnk = 64", "max_rnk"),
        ("[egress]", "[egres]", "'egress' is missing"),
        ('["installed"]', '["anything"]', "code.bundles.0='anything' is not allowed"),
        (BASE, "any", "base.sha256.0='any' is not allowed"),
        ("[hub]", "[hub", "cannot be read"),
        ('facts = ["silo"', 'facts = ["silo', "cannot be read"),
    ],
)
def test_a_policy_that_cannot_be_understood_allows_nothing_and_says_why(
    folder, before, after, said
):
    change(folder, before, after)
    with pytest.raises(ConfigError) as error:
        policy.read(folder)
    assert said in str(error.value)
    assert "policy.toml" in str(error.value)


def test_without_a_policy_nothing_is_allowed(tmp_path):
    with pytest.raises(ConfigError, match="nothing is allowed without it"):
        policy.read(tmp_path)


def test_bundles_are_named_by_hash_or_by_what_is_installed(folder):
    change(folder, '["installed"]', '"installed"')
    assert policy.bundles(policy.read(folder)) == {bundle.sha256()}
    change(folder, 'bundles = "installed"', f'bundles = ["{"0" * 64}"]')
    assert policy.admit(policy.read(folder), signed()) == "bundle_differs"
    assert policy.admit(policy.read(folder), signed(bundle="0" * 64)) == ""
    change(folder, f'bundles = ["{"0" * 64}"]', "bundles = []")
    assert policy.admit(policy.read(folder), signed(bundle="0" * 64)) == "bundle_differs"


@pytest.mark.parametrize(
    ("key", "limit", "code"),
    [
        ("model.rank", "max_rank", "rank_too_high"),
        ("rounds", "max_rounds", "rounds_too_many"),
        ("train.steps", "max_steps", "steps_too_many"),
        ("train.batch_size", "max_batch_size", "batch_too_large"),
        ("train.length", "max_length", "length_too_long"),
    ],
)
def test_the_most_that_is_allowed_is_allowed_and_one_more_is_not(folder, key, limit, code):
    rules = policy.read(folder)
    study = from_flat({key: 100})
    at = rules.model_copy(update={"study": rules.study.model_copy(update={limit: 100})})
    below = rules.model_copy(update={"study": rules.study.model_copy(update={limit: 99})})
    assert policy.admit(at, signed(study)) == ""
    assert policy.admit(below, signed(study)) == code


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"model.rank": 60, "strategy": "fedavg(private=5)"}, "rank_too_high"),
        ({"model.rank": 8, "strategy": "dual(private=57)"}, "rank_too_high"),
        ({"alone.rates": ",".join(["0.001"] * 17)}, "tries_too_many"),
        ({"alone.adapt_rates": ",".join(["0.5"] * 5000)}, "tries_too_many"),
        ({"alone.distil": ",".join(["0.5"] * 17)}, "tries_too_many"),
        ({"alone.blend": ",".join(["0.5"] * 17)}, "tries_too_many"),
        ({"evaluate.characters": 10**8}, "scores_too_many"),
        ({"evaluate.answers": 10**9}, "scores_too_many"),
        ({"evaluate.answer_tokens": 10**6}, "scores_too_many"),
        ({"model.rank": 59, "strategy": "fedavg(private=5)"}, ""),
        ({"alone.rates": ",".join(["0.001"] * 16), "alone.distil": "", "alone.blend": ""}, ""),
        ({"evaluate.characters": 10**7, "evaluate.answers": 10**5}, ""),
        ({"strategy": "no_strategy()"}, ""),
    ],
    ids=str,
)
def test_a_study_gets_around_no_limit_by_what_silos_do_beside_it(folder, asked, code):
    assert policy.admit(policy.read(folder), signed(from_flat(asked))) == code


def test_a_refusal_names_the_limits_that_hold():
    numbers = [str(most) for most in limits.SCORED.values()]
    assert all(number in REFUSALS["scores_too_many"] for number in numbers)
    assert str(limits.TRIES) in REFUSALS["tries_too_many"]


def test_a_task_that_is_not_listed_is_refused(folder):
    change(folder, 'tasks = ["causal_lm", ', "tasks = [")
    assert policy.admit(policy.read(folder), signed()) == "task_not_allowed"


def test_names_fit_patterns_by_case():
    patterns = ("loss", "valid/*")
    assert policy.matches("loss", patterns)
    assert policy.matches("valid/as/bits", patterns)
    assert not policy.matches("Loss", patterns)
    assert not policy.matches("valid", patterns)
    assert not policy.matches("", patterns)


def test_a_new_policy_lets_out_what_silos_measure_and_how_they_score(folder):
    allowed = policy.read(folder).egress.metrics
    names = ["loss", "codec_reset", "valid", "lr", "step", "valid/as/bits", "together/as/chrf++"]
    for name in [*names, *(f"{what}/0" for what in metrics.EFFORT)]:
        assert policy.matches(name, allowed), name


def test_a_refusal_has_a_sentence_and_a_code_that_the_hub_knows():
    assert set(REFUSALS) <= set(messages.CODES)
    assert all(code.replace("_", "").isalpha() and len(code) <= 40 for code in REFUSALS)
    assert all(text[0].islower() and not text.endswith(".") for text in REFUSALS.values())


def test_a_policy_has_no_defaults():
    assert not any(
        field.default is not None and not field.is_required()
        for table in Policy.model_fields.values()
        for field in table.annotation.model_fields.values()
    )
