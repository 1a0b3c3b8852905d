"""A blend: exactly the mixture of two changes of the base, as one adapter that the model and PEFT both take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl_client import evaluate, export, model, score
from fl_client.blend import blended
from fl_client.config import Alone, ConfigError, Study
from fl_client.score import best
from strategies import adapter as algebra

SHAPES = {"x.lora_A.weight": (2, 7), "x.lora_B.weight": (5, 2), "e.trainable_tokens_delta": (3, 4)}
PRIVATE = {"x.lora_A.private": (3, 7), "x.lora_B.private": (5, 3)}


def drawn(seed: int, shapes, merged: int = 0):
    dice = np.random.default_rng(seed)
    slices = {"x.lora_A.merged": (merged, 7), "x.lora_B.merged": (5, merged)} if merged else {}
    return {n: dice.normal(size=s).astype(np.float32) for n, s in (shapes | slices).items()}


def product(adapter):
    """Return the change of the base that an adapter is, dense."""
    kinds = ("weight", "private", "merged")
    held = [
        (adapter[f"x.lora_B.{k}"], adapter[f"x.lora_A.{k}"])
        for k in kinds
        if f"x.lora_B.{k}" in adapter
    ]
    return sum(b.astype(np.float64) @ a for b, a in held)


@given(
    st.integers(0, 99),
    st.floats(0.01, 0.99),
    st.sampled_from([SHAPES, SHAPES | PRIVATE]),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_a_blend_is_the_mixture_of_both_changes(seed, share, shapes, kept, others):
    together, alone = drawn(seed, shapes, kept), drawn(seed + 100, shapes, others)
    mixed = blended(together, alone, share)
    slow = share * product(together) + (1 - share) * product(alone)
    np.testing.assert_allclose(product(mixed), slow, atol=1e-5)
    rows = "e.trainable_tokens_delta"
    np.testing.assert_allclose(
        mixed[rows], share * together[rows] + (1 - share) * alone[rows], atol=1e-6
    )
    assert all(x.dtype == np.float32 for x in mixed.values())
    joined = export.joined(mixed)
    np.testing.assert_allclose(
        joined["x.lora_B.weight"].astype(np.float64) @ joined["x.lora_A.weight"], slow, atol=1e-5
    )


def test_a_core_is_multiplied_into_its_pair_before_it_is_mixed():
    together, alone = drawn(1, SHAPES | {"x.lora_B.core": (2, 2)}), drawn(2, SHAPES)
    b, core, a = (together[f"x.lora_{n}"] for n in ("B.weight", "B.core", "A.weight"))
    slow = 0.5 * b.astype(np.float64) @ core @ a + 0.5 * product(alone)
    np.testing.assert_allclose(product(blended(together, alone, 0.5)), slow, atol=1e-5)


def test_a_blend_of_an_adapter_with_itself_gives_the_same_answers(made):
    dice = np.random.default_rng(3)
    own = {n: dice.normal(0, 0.02, x.shape).astype(np.float32) for n, x in made.start.items()}
    ids = torch.arange(24)[None]
    told = []
    for adapter in (own, blended(own, own, 0.25)):
        model.write(made, adapter)
        with torch.inference_mode():
            told.append(made.model(input_ids=ids).logits)
    model.write(made, {})
    assert any(algebra.part(n) == "merged" for n in blended(own, own, 0.25))
    torch.testing.assert_close(told[0], told[1], atol=2e-2, rtol=2e-2)
    assert not torch.equal(told[0], made.model(input_ids=ids).logits)


def across(first: int):
    """Return an adapter whose change is in two columns alone, as large as that of any other of these."""
    a = np.zeros((2, 7), np.float32)
    a[:, first : first + 2] = np.eye(2)
    return {"x.lora_A.weight": a, "x.lora_B.weight": np.ones((5, 2), np.float32)}


TOGETHER, ADAPTED, ALONE = across(0), across(2), across(4)


def mixed_for(target, names=("together", "adapted"), shares="0.25,0.5,0.75"):
    """Return the blend of a silo whose validation text costs the squared distance of a change from ``target``."""

    def bits(asked):
        return [{"as": np.array([np.sum((product(own.adapter) - target) ** 2)])} for own in asked]

    candidates = {name: {"together": TOGETHER, "adapted": ADAPTED}[name] for name in names}
    candidates["alone"] = ALONE
    told = bits([evaluate.Asked(own, {}) for own in candidates.values()])
    study = Study(alone=Alone(blend=shares))
    asking = score.blend(study, {}, candidates, dict(zip(candidates, told, strict=True)))
    return evaluate.told(asking, bits)


@pytest.mark.parametrize(
    ("adapted", "alone"), [(0.25, 0.25), (0.5, 0.5), (0.5, 0.75), (0.75, 0.25), (0.25, 0), (0.75, 0)]
)  # fmt: skip
def test_what_was_adapted_is_mixed_with_what_it_came_from_and_that_with_alone(adapted, alone):
    others = adapted * product(ADAPTED) + (1 - adapted) * product(TOGETHER)
    target = (1 - alone) * others + alone * product(ALONE)
    blend = mixed_for(target)
    assert blend.share == 1 - alone
    np.testing.assert_allclose(product(blend.adapter), target, atol=1e-5)
    assert blend.valid["as"] == pytest.approx(0, abs=1e-5)


def test_a_candidate_whose_bits_are_no_number_is_in_no_blend(monkeypatch):
    monkeypatch.setitem(TOGETHER, "x.lora_B.weight", np.full((5, 2), np.nan, np.float32))
    target = 0.5 * product(ADAPTED) + 0.5 * product(ALONE)
    blend = mixed_for(target)
    assert blend.share == 0.5
    np.testing.assert_allclose(product(blend.adapter), target, atol=1e-5)


def test_a_silo_that_did_not_adapt_mixes_what_was_trained_together_with_alone():
    target = 0.25 * product(TOGETHER) + 0.75 * product(ALONE)
    blend = mixed_for(target, names=("together",))
    assert blend.share == 0.25
    np.testing.assert_allclose(product(blend.adapter), target, atol=1e-5)


def test_the_best_on_validation_is_served_and_what_others_trained_must_win_by_the_margin():
    reached = {"base": 2.0, "alone": 1.0, "together": 1.1, "blend": 0.97}
    assert best(reached, 0.0) == "blend"
    assert best(reached, 0.05) == "alone"
    assert best(reached | {"together": 0.97}, 0.0) == "together"  # one adapter rather than two
    assert best(reached | {"blend": float("nan")}, 0.0) == "alone"


def test_a_silo_adapts_at_parts_of_the_rate_that_was_best_alone():
    assert Alone().adapted(0.004) == [0.002]
    assert Alone(adapt_rates="0.25,1,2").adapted(0.004) == [0.001, 0.004, 0.008]
    for wrong in ("", "0", "half", "-1", "0.5,"):
        with pytest.raises(ConfigError, match="alone.adapt_rates"):
            Alone(adapt_rates=wrong).adapted()


def test_shares_of_a_blend_are_numbers_between_0_and_1():
    assert Alone().shares() == [0.25, 0.5, 0.75]
    assert Alone(blend=" ").shares() == []
    for wrong in ("0", "1", "half", "0.5,", "nan"):
        with pytest.raises(ConfigError, match="alone.blend"):
            Alone(blend=wrong).shares()


def test_a_silo_is_taught_with_the_shares_of_its_study_and_only_where_it_adapts():
    assert Alone().taught() == [0.9] and Alone(distil="0.5, 0.9").taught() == [0.5, 0.9]
    assert Alone(distil=" ").taught() == Alone(adapt=False).taught() == []
    for wrong in ("0", "1", "much", "0.5,", "-0.1"):
        with pytest.raises(ConfigError, match="alone.distil"):
            Alone(distil=wrong).taught()
