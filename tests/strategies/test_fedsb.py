"""Fed-SB: the core alone is trained and sent, its mean is the mean of the products, and B R is a plain B (F10)."""

from __future__ import annotations

import numpy as np
import pytest

from strategies import accumulate
from strategies.adapter import initial, layout, part, size
from strategies.fedsb import cores, fedsb, folded

A, B, CORE = "x.lora_A.weight", "x.lora_B.weight", "x.lora_B.core"
ROWS = "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (3, 9), B: (7, 3), CORE: (3, 3), ROWS: (4, 5)}


def noise(seed):
    draw = np.random.default_rng(seed)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


@pytest.mark.parametrize("number", [1, 2, 9])
def test_the_core_alone_of_a_pair_is_trained_and_sent_and_all_of_it_goes_down(number):
    made = fedsb()
    assert [made.sent(n, number) for n in (A, B, CORE, ROWS)] == [False, False, True, True]
    assert [made.local.trainable(n, number) for n in (A, B, CORE)] == [False, False, True]
    assert all(made.changed(n, number) for n in (A, B, CORE))
    assert made.domain == "core" and made.reduction == "sum"


def test_what_is_sent_of_a_module_is_the_square_of_the_rank():
    sent = {n: s for n, s in SHAPES.items() if fedsb(rows="silo").sent(n, 1)}
    assert size(sent) == 3**2 and cores(SHAPES) == {CORE: (3, 3)} == sent


def test_the_mean_of_the_cores_is_the_mean_of_the_products_exactly():
    start = fedsb().survey.found({}, noise(0), "7")
    own = [np.random.default_rng(k).integers(-8, 9, (3, 3)).astype(np.float32) for k in range(4)]
    weights = [1.0, 0.5, 0.25, 0.25]  # halves of whole numbers are exact
    mean = accumulate.mean_of(
        [(w, {CORE: r}) for w, r in zip(weights, own, strict=True)], {CORE: (3, 3)}
    )
    step, _ = fedsb().aggregate(mean, {CORE: start[CORE]}, {})
    slow = sum(w / 2 * r.astype(float) for w, r in zip(weights, own, strict=True))
    assert np.array_equal(step[CORE], slow.astype(np.float32))
    products = sum(
        w / 2 * start[B].astype(float) @ r @ start[A] for w, r in zip(weights, own, strict=True)
    )
    np.testing.assert_allclose(start[B].astype(float) @ step[CORE] @ start[A], products, atol=1e-6)


def test_a_folded_adapter_has_the_same_product_and_no_core():
    adapter = noise(1)
    plain = folded(adapter)
    assert plain.keys() == {A, B, ROWS} and layout(plain)[B] == (7, 3)
    np.testing.assert_allclose(
        plain[B] @ plain[A], adapter[B] @ adapter[CORE] @ adapter[A], atol=1e-4
    )
    assert all(plain[n].tobytes() == adapter[n].tobytes() for n in (A, ROWS))


def test_a_core_that_was_never_trained_is_as_if_it_were_not_there():
    adapter = noise(2) | {CORE: initial(CORE, (3, 3), 7)}
    assert folded(adapter)[B].tobytes() == adapter[B].tobytes()
    without = {n: x for n, x in adapter.items() if part(n) != "core"}
    assert {n: x.tobytes() for n, x in folded(without).items()} == {
        n: x.tobytes() for n, x in without.items()
    }


def test_cores_that_nobody_shares_are_refused():
    with pytest.raises(ValueError, match="lora='silo'.*choose a wider scope"):
        fedsb(lora="silo")
