"""The configuration of what is released: made here, of what a silo says only what fits the adapter."""

from __future__ import annotations

import copy

import pytest

from fl_client import model
from fl_client.config import ConfigError, Model, from_flat
from fl_server import adapter_config

STUDY = from_flat({"model.rank": 2, "model.alpha": 6})


@pytest.fixture(scope="module")
def warm():
    return model.warm(Model(rank=2, alpha=6), 3, "Beng", 7)


@pytest.fixture
def said(warm):
    return copy.deepcopy(warm.peft_config)


def shared(warm, without=()):
    return {n: x for n, x in warm.start.items() if not n.endswith((".private", *without))}


def test_what_a_silo_says_of_modules_and_rows_is_taken_and_nothing_else(warm, said):
    harmful = said | {"auto_mapping": {"parent_library": "os"}, "lora_alpha": 2000, "revision": "x"}
    found = adapter_config.of(harmful, STUDY, shared(warm))
    assert (found["r"], found["lora_alpha"]) == (2, 6)
    assert found["target_modules"] == said["target_modules"]
    assert found["trainable_token_indices"] == said["trainable_token_indices"]
    assert not {"auto_mapping", "revision", "base_model_name_or_path"} & set(found)


def test_rows_that_stay_at_home_are_in_no_released_configuration(warm, said):
    found = adapter_config.of(said, STUDY, shared(warm, (".trainable_tokens_delta",)))
    assert found["trainable_token_indices"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": ["q_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": [".*"]},
        {"target_modules": None},
        {"trainable_token_indices": [1, 2]},
        {"trainable_token_indices": "many"},
        {"trainable_token_indices": None},
    ],
    ids=str,
)
def test_what_does_not_fit_the_adapter_is_refused(change, warm, said):
    with pytest.raises(ConfigError, match="is said to be of"):
        adapter_config.of(said | change, STUDY, shared(warm))


@pytest.mark.parametrize("nothing", [None, "peft", [], {}])
def test_a_silo_that_says_nothing_is_refused(nothing, warm):
    with pytest.raises(ConfigError, match="is said to be of modules None"):
        adapter_config.of(nothing, STUDY, shared(warm))
