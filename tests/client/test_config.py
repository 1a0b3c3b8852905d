"""A study: flat keys and back, one digest, and one line for whatever is wrong."""

from __future__ import annotations

import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import digest
from fl_client.config import ConfigError, Section, Study, flat, from_flat

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)

DEFAULTS = flat(Study())
words = st.text("abcdefgh", min_size=1, max_size=8)
OTHERS = {  # for every key, a strategy of allowed values; a test holds this table complete
    "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    "task": words, "strategy": words, "weights": words, "outer": words, "guard": words,
    "codec": words, "broadcast": words, "schedule": words, "home": words,
    "rounds": st.integers(1, 99), "seed": st.integers(0, 2**40),
    "model.base": words, "model.rank": st.integers(1, 1024), "model.alpha": st.floats(0.1, 99),
    "model.targets": words, "model.rows": st.sampled_from(["scripts", "none"]),
    "train.steps": st.integers(1, 99), "train.batch_size": st.integers(1, 99),
    "train.length": st.integers(8, 999), "train.lr": st.floats(1e-6, 1),
    "train.rows_lr": st.floats(0.01, 9),
    "train.decay": st.floats(0.01, 1), "train.clip": st.floats(0.1, 9),
    "train.keep_optimizer": st.booleans(), "train.dtype": st.sampled_from(["float32", "bfloat16"]),
    "train.threads": st.integers(0, 9), "alone.enabled": st.booleans(),
    "alone.rates": st.sampled_from(["0.1", "0.1,0.2"]), "alone.margin": st.floats(0, 0.9),
    "alone.errors": st.floats(0, 9),
    "alone.adapt": st.booleans(), "alone.adapt_rates": st.sampled_from(["0.5", "0.25,1"]),
    "alone.distil": st.sampled_from(["", "0.5,0.9"]),
    "alone.blend": st.sampled_from(["", "0.3,0.6"]), "simulation.sources": words,
    "evaluate.characters": st.integers(100, 9999), "evaluate.answers": st.integers(1, 99),
    "evaluate.answer_tokens": st.integers(1, 99),
    "model.quantization": st.sampled_from(["none", "nf4"]), "train.micro_batch": st.integers(0, 9),
    "train.schedule": st.sampled_from(["linear", "cosine", "constant"]), "train.parallel": words,
    "train.checkpointing": st.booleans(), "evaluate.every": st.integers(0, 9),
    "simulation.data": words, "simulation.languages": words, "simulation.silos": st.integers(0, 9),
    "simulation.partition": words, "simulation.characters": st.integers(0, 999),
    "simulation.pooled": st.booleans(), "simulation.ranks": words,
    "train.optimizer": st.sampled_from(["adamw", "sgd"]),
}  # fmt: skip
BAD = {
    "model.rank": (0, -1, 1025, 2.5, "two", None),
    "model.alpha": (0, -1.0, math.nan, math.inf),
    "model.base": ("",),
    "model.rows": ("all", ""),
    "rounds": (0, -3, 1.5, "many", True, 10**9 + 1),
    "seed": (-1, 2**53, False),
    "name": ("", "a b", "../x", ".x", "a\nb", "x" * 65),
    "train.steps": (0, 2**63 - 1),
    "train.batch_size": (0,),
    "train.length": (7,),
    "train.lr": (0, True, -1e-3, math.nan, math.inf),
    "train.decay": (0, 1.01, math.nan),
    "train.clip": (0, math.inf),
    "train.dtype": ("float16", "int8"),
    "train.threads": (-1,),
    "train.schedule": ("exponential",),
    "train.micro_batch": (-1,),
    "model.quantization": ("int4",),
    "evaluate.every": (-1,),
    "train.keep_optimizer": ("maybe",),
    "train.optimizer": ("adam", ""),
    "alone.margin": (-0.1, 1.0, math.nan),
    "alone.errors": (-0.1, math.nan, math.inf, "inf", 10**400),
    "evaluate.characters": (99,),
    "evaluate.answers": (0,),
    "evaluate.answer_tokens": (0,),
    "simulation.silos": (-1, 2**63 - 1),
    "simulation.data": ("",),
    "simulation.characters": (-1,),
    "simulation.pooled": ("perhaps", 2),
    "task": (None, ["causal_lm()"]),
}


def sections(section=None):
    """Return every table of a study with its fields."""
    within = section or Study()
    yield within
    for value in vars(within).values():
        if isinstance(value, Section):
            yield from sections(value)


def test_a_study_of_defaults_comes_back_from_its_flat_keys():
    assert from_flat({}) == Study()
    assert from_flat(DEFAULTS) == Study()


def test_flat_keys_hold_every_choice_once_as_a_scalar():
    fields = sum(len(type(s).model_fields) for s in sections())
    assert len(DEFAULTS) == fields - sum(1 for _ in sections()) + 1
    assert all(isinstance(value, (str, int, float, bool)) for value in DEFAULTS.values())
    assert OTHERS.keys() == DEFAULTS.keys()


@quick
@given(st.fixed_dictionaries({}, optional=OTHERS))
def test_flat_and_from_flat_undo_each_other(pairs):
    study = from_flat(pairs)
    assert flat(study) == DEFAULTS | pairs
    assert from_flat(flat(study)) == study
    assert digest.of(from_flat(flat(study))) == digest.of(study)


def test_the_digest_is_that_of_the_values_whatever_way_they_were_given():
    assert digest.of(from_flat(DEFAULTS)) == digest.of(Study())
    assert digest.of(from_flat({"train.clip": 2})) == digest.of(from_flat({"train.clip": "2.0"}))
    assert digest.of(from_flat({"train.clip": 2})) != digest.of(Study())


@quick
@given(st.sampled_from(sorted(DEFAULTS)), st.data())
def test_the_digest_changes_with_every_key_but_home(key, data):
    value = data.draw(OTHERS[key].filter(lambda value: value != DEFAULTS[key]))
    same = digest.of(from_flat({key: value})) == digest.of(Study())
    assert same == (key == "home")


@quick
@given(st.fixed_dictionaries({}, optional=OTHERS), st.fixed_dictionaries({}, optional=OTHERS))
def test_two_digests_are_equal_only_where_all_but_home_is(first, second):
    one, two = (flat(from_flat(pairs)) | {"home": ""} for pairs in (first, second))
    assert (digest.of(from_flat(first)) == digest.of(from_flat(second))) == (one == two)


@quick
@given(st.fixed_dictionaries({}, optional=OTHERS))
def test_a_version_that_knows_more_keys_gives_a_study_the_same_digest(pairs):
    class Newer(Study):
        more: int = 3

    known = from_flat(pairs)
    newer = Newer.model_validate(known.model_dump())
    assert digest.of(newer) == digest.of(known)
    assert digest.of(newer.model_copy(update={"more": 4})) != digest.of(known)


def test_the_default_of_a_key_changes_only_with_the_number_that_says_so():
    """Else a study that runs would be taken for one with other values. After a change: count up, and put both here."""
    pinned = hashlib.sha256(json.dumps(DEFAULTS, sort_keys=True).encode()).hexdigest()
    assert (digest.DEFAULTS, pinned[:12]) == (1, "31af315f62ed")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.stps", "train.steps"),
        ("round", "rounds"),
        ("stratgy", "strategy"),
        ("model.ranks", "model.rank"),
        ("simulation.language", "simulation.languages"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key, meant):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'; did you mean '{meant}'") as caught:
        from_flat({key: 1})
    assert "\n" not in str(caught.value)


def test_a_key_like_no_other_is_answered_with_all_keys():
    with pytest.raises(ConfigError) as caught:
        from_flat({"qqqq": 1})
    assert str(caught.value) == f"unknown key 'qqqq'; known: {', '.join(DEFAULTS)}"


def test_a_table_is_no_key():
    with pytest.raises(ConfigError, match="unknown key 'model'"):
        from_flat({"model": {"rank": 3}})


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_a_value_out_of_range_is_refused_in_one_line_with_its_key(key, value):
    with pytest.raises(ConfigError) as caught:
        from_flat({key: value})
    said = str(caught.value)
    assert said.startswith(f"{key}={value!r} is not allowed: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    "rates", ["a,b", "", ",", "0", "-0.1", "0.1,", "0.1 0.2", "0.1,0", "nan", "0.1,nan", "inf"]
)
def test_rates_that_are_no_numbers_above_0_are_refused_in_one_line(rates):
    with pytest.raises(ConfigError) as caught:
        from_flat({"alone.rates": rates}).alone.lrs()
    said = str(caught.value)
    assert f"alone.rates={rates!r}" in said
    assert "\n" not in said


def test_true_is_no_number_but_a_choice():
    assert from_flat({"alone.adapt": True}).alone.adapt is True
    with pytest.raises(
        ConfigError, match="rounds=True is not allowed: input should be a number, not"
    ):
        from_flat({"rounds": True})


def test_every_whole_number_of_a_study_has_an_end():
    for key, value in DEFAULTS.items():
        if type(value) is int:
            with pytest.raises(ConfigError, match=f"{key}=.* less than or equal to"):
                from_flat({key: 2**53})


def test_rates_are_read_in_their_order():
    assert from_flat({"alone.rates": "0.01, 0.002"}).alone.lrs() == [0.01, 0.002]
    assert from_flat({"alone.rates": 0.5}).alone.lrs() == [0.5]


def test_a_study_does_not_change_once_read():
    study = Study()
    with pytest.raises(ValueError, match="frozen"):
        study.rounds = 3
    assert study.rounds == DEFAULTS["rounds"]
