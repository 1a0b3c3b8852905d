"""The configuration of what is released: made here, of what a silo says only what fits the adapter."""

from __future__ import annotations

import numpy as np
import pytest

from fl_client import lora, model
from fl_client.config import ConfigError, Model, from_flat
from fl_client.messages import TOKENS, Reply
from fl_server import adapter_config, run
from strategies.fedsb import cores

STUDY = from_flat({"model.rank": 2, "model.alpha": 6})


@pytest.fixture(scope="module")
def warm():
    return model.warm(Model(rank=2, alpha=6), 3, "Beng", 7)


@pytest.fixture
def said(warm):
    """Return what a silo says of the adapter, in words and as an array."""
    told, tokens = lora.said(warm.peft_config, shared(warm))
    return told, tokens[TOKENS]


def shared(warm, without=()):
    return {n: x for n, x in warm.start.items() if not n.endswith((".private", *without))}


def test_what_a_silo_says_of_modules_and_rows_is_taken_and_nothing_else(warm, said):
    told, tokens = said
    harmful = told | {"auto_mapping": {"parent_library": "os"}, "lora_alpha": 2000, "revision": "x"}
    found = adapter_config.of(harmful, tokens, STUDY, shared(warm))
    assert (found["r"], found["lora_alpha"]) == (2, 6)
    assert found["target_modules"] == told["target_modules"]
    assert found["trainable_token_indices"] == warm.peft_config["trainable_token_indices"]
    assert not {"auto_mapping", "revision", "base_model_name_or_path"} & set(found)


def test_rows_that_stay_at_home_are_in_no_released_configuration(warm, said):
    found = adapter_config.of(*said, STUDY, shared(warm, (".trainable_tokens_delta",)))
    assert found["trainable_token_indices"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": [".*"]},
        {"target_modules": None},
    ],
    ids=str,
)
def test_modules_that_do_not_fit_the_adapter_are_refused(change, warm, said):
    with pytest.raises(ConfigError, match="is said to be of modules"):
        adapter_config.of(said[0] | change, said[1], STUDY, shared(warm))


@pytest.mark.parametrize(
    "change",
    [
        lambda tokens: tokens[:2],
        lambda tokens: -tokens - 1,
        lambda tokens: tokens[:, None],
        lambda tokens: tokens.astype("f4"),
        lambda tokens: tokens.astype("i8"),
        lambda tokens: None,
    ],
    ids=["two of them", "below 0", "a matrix", "floats", "wider", "none"],
)
def test_token_rows_that_do_not_fit_the_adapter_are_refused(change, warm, said):
    with pytest.raises(ConfigError, match="token rows is said to be of"):
        adapter_config.of(said[0], change(said[1]), STUDY, shared(warm))


@pytest.mark.parametrize("nothing", [None, "peft", [], {}])
def test_a_silo_that_says_nothing_is_refused(nothing, warm):
    with pytest.raises(ConfigError, match="is said to be of modules None"):
        adapter_config.of(nothing, None, STUDY, shared(warm))


# The whole first adapter, which one silo makes for all.


def each(change, end="lora_A.weight"):
    """Return a change of the tensors whose names end so."""
    return lambda arrays: {n: change(x) if n.endswith(end) else x for n, x in arrays.items()}


WRONG = {
    "NaN": (each(lambda x: x * np.float32("nan")), "with NaN"),
    "too large": (each(lambda x: x + np.float32(1e6)), "beyond 16384"),
    "float64": (each(lambda x: x.astype("f8")), "as float64"),
    "not a matrix": (each(lambda x: x[None]), r"\(1, 2, "),
    "a scalar": (each(lambda x: x.reshape(-1)[0]), "not a matrix"),
    "no numbers": (each(lambda x: x[:, :0]), "not a matrix"),
    "another name": (lambda arrays: arrays | {"x": arrays[min(arrays)]}, "made 'x'"),
    "a private part": (
        lambda a: a | {n[:-6] + "private": x for n, x in a.items() if "lora_A" in n},
        "private'; its names may end in .lora_A.weight",
    ),
    "two ranks": (each(lambda x: x[:1]), r"ranks \[1, 2\]; the study's is 2"),
    "a higher rank": (
        lambda arrays: each(lambda x: np.repeat(x, 2, 0))(
            each(lambda x: np.repeat(x, 2, 1), "lora_B.weight")(arrays)
        ),
        r"ranks \[4\]; the study's is 2",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_first_adapter_that_cannot_be_one_is_refused_with_what_is_wrong(wrong, warm, said):
    change, why = WRONG[wrong]
    with pytest.raises(ConfigError, match=why):
        run._sound(reply(change(shared(warm)), *said), STUDY)


def reply(arrays, told, tokens):
    """Return a silo's answer as it comes to the hub."""
    return Reply(arrays | {TOKENS: tokens}, {}, {"peft": told}, "", 1)


def test_a_first_adapter_is_taken_as_it_is_made_also_with_cores(warm, said):
    plain = shared(warm)
    square = {
        n: np.eye(*s, dtype="f4") for n, s in cores({n: x.shape for n, x in plain.items()}).items()
    }
    for arrays in (plain, plain | square):
        made, config = run._sound(reply(arrays, *said), STUDY)
        assert made == arrays and config["r"] == 2
