"""FedAvg on factors: F3 (what averaging loses), F11 (what never travels), pooling by scope."""

from __future__ import annotations

import numpy as np
import pytest

from strategies import accumulate
from strategies.adapter import initial, layout
from strategies.fedavg import fedavg
from strategies.ffa import ffa
from strategies.scope import group

A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"
NAMES = (A, B, ROWS, "x.lora_A.private", "x.lora_B.private")
WEIGHTS = [1.0, 0.5, 0.25, 0.9, 0.1, 0.7]


def factors(silo, names=(A, B)):
    draw = np.random.default_rng(silo)
    shapes = {A: (4, 9), B: (7, 4), ROWS: (3, 9)}
    return {name: draw.normal(size=shapes[name]).astype(np.float32) for name in names}


def merged(strategy, updates, weights):
    running = accumulate.empty(layout(updates[0]))
    for update, weight in zip(updates, weights, strict=True):
        running = accumulate.add(running, update, weight)
    mean = accumulate.mean(running)
    return strategy.aggregate(mean, updates[0], strategy.init(updates[0]))[0]


def loss_of_averaging(updates, weights):
    """Return the mean of the products minus the product of the means, and their identity (F3)."""
    mean = {n: np.float64(x) for n, x in merged(fedavg(), updates, weights).items()}
    share = np.array(weights) / sum(weights)
    pairs = [(np.float64(u[B]), np.float64(u[A])) for u in updates]
    lost = sum(w * b @ a for w, (b, a) in zip(share, pairs, strict=True)) - mean[B] @ mean[A]
    spread = [(b - mean[B]) @ (a - mean[A]) for b, a in pairs]
    return lost, sum(w * s for w, s in zip(share, spread, strict=True))


@pytest.mark.parametrize("silos", [2, 3, 6])
def test_averaging_factors_loses_the_covariance_of_the_factors_and_nothing_else(silos):
    lost, covariance = loss_of_averaging([factors(k) for k in range(silos)], WEIGHTS[:silos])
    np.testing.assert_allclose(lost, covariance, atol=1e-6)
    assert np.abs(lost).max() > 0.1
    # two silos can differ only along one line: the rank is at most (K - 1) r
    assert np.linalg.matrix_rank(lost, tol=1e-5) <= min(7, (silos - 1) * 4)


def test_averaging_loses_nothing_where_all_share_one_a_as_in_ffa():
    common = initial(A, (4, 9), 1)
    updates = [{A: common, B: factors(k)[B]} for k in range(6)]
    assert not ffa().sent(A, 1)
    lost, _ = loss_of_averaging(updates, WEIGHTS)
    np.testing.assert_allclose(lost, 0, atol=1e-6)


def test_averaging_loses_nothing_with_one_silo():
    lost, _ = loss_of_averaging([factors(1)], [0.3])
    np.testing.assert_allclose(lost, 0, atol=1e-6)


def test_the_mean_is_the_weighted_mean_of_each_tensor():
    updates = [factors(k, (A, B, ROWS)) for k in range(6)]
    mean = merged(fedavg(), updates, WEIGHTS)
    for name in (A, B, ROWS):
        slow = np.average([np.float64(u[name]) for u in updates], axis=0, weights=WEIGHTS)
        np.testing.assert_allclose(mean[name], slow, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("strategy", "sent"),
    [
        (fedavg(), {A, B, ROWS}),
        (fedavg(private=4), {A, B, ROWS}),
        (fedavg(b="silo", private=2), {A, ROWS}),
        (fedavg(b="silo", rows="silo"), {A}),
        (fedavg(a="silo"), {B, ROWS}),
        (fedavg(lora="silo"), {ROWS}),
        (fedavg(lora="silo", b="everyone"), {B, ROWS}),
        (fedavg(lora="silo", rows="silo"), set()),
        (fedavg(lora="language", rows="script"), {A, B, ROWS}),
    ],
)
def test_only_what_is_shared_is_sent_in_any_round(strategy, sent):
    for round_number in range(1, 6):
        assert {n for n in NAMES if strategy.sent(n, round_number)} == sent


def test_share_a_never_sends_a_b_and_private_tensors_never_leave():
    share_a = fedavg(b="silo", private=8)
    on_the_wire = [n for r in range(1, 20) for n in NAMES if share_a.sent(n, r)]
    assert on_the_wire
    assert not any("lora_B" in n or n.endswith(".private") for n in on_the_wire)
    assert not any(share_a.changed(n, 20) for n in NAMES if n not in on_the_wire)


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({}, ("everyone", "everyone", "language")),
        ({"lora": "language"}, ("language", "language", "language")),
        ({"lora": "family", "rows": "silo"}, ("family", "family", "silo")),
        ({"a": "family", "b": "silo"}, ("family", "silo", "language")),
    ],
)
def test_every_part_has_the_scope_that_was_given(given, scopes):
    made = fedavg(**given)
    assert tuple(made.scope(n) for n in (A, B, ROWS)) == scopes
    assert made.scope("x.lora_A.private") == "silo"


@pytest.mark.parametrize("field", ["lora", "rows", "a", "b"])
def test_a_word_that_is_no_scope_is_refused_by_the_name_of_its_option(field):
    with pytest.raises(ValueError, match=f"^{field}='town'"):
        fedavg(**{field: "town"})


def test_a_private_rank_is_kept_and_below_zero_is_refused():
    assert fedavg(private=16).private_rank == 16
    with pytest.raises(ValueError, match="private=-1"):
        fedavg(private=-1)


def pooled(within, languages):
    """Return what each silo receives where silos merge within this scope, as bytes."""
    made = fedavg(lora=within)
    members = {}
    for silo, lang in enumerate(languages):
        members.setdefault(group(made.scope(A), lang, str(silo)), []).append(silo)
    received = {}
    for silos in members.values():
        mean = merged(made, [factors(s) for s in silos], [WEIGHTS[s] for s in silos])
        received |= {s: mean[A].tobytes() + mean[B].tobytes() for s in silos}
    return received


def test_one_family_is_the_global_run_to_the_last_bit():
    assert pooled("family", ["as", "bn", "hi", "or"]) == pooled(
        "everyone", ["as", "bn", "hi", "or"]
    )


def test_as_many_families_as_silos_is_everyone_alone():
    alone = {k: f[A].tobytes() + f[B].tobytes() for k, f in ((k, factors(k)) for k in range(4))}
    several = pooled("family", ["as", "ta", "sat", "brx"])
    assert several.keys() == alone.keys()
    for silo, bytes_of_both in several.items():
        got, own = (np.frombuffer(b, np.float32) for b in (bytes_of_both, alone[silo]))
        # a weight below 1 rounds in the 32nd bit after the point; alone and unweighted is exact
        np.testing.assert_allclose(got, own, rtol=1e-6, atol=2**-31)


def test_silos_of_another_family_change_nothing_for_mine():
    mine = pooled("family", ["as", "as", "bn"])
    with_strangers = pooled("family", ["as", "as", "bn", "ta", "te"])
    with_a_relative = pooled("family", ["as", "as", "bn", "doi"])
    assert {s: with_strangers[s] for s in mine} == mine
    assert all(with_a_relative[s] != mine[s] for s in mine)


@pytest.mark.parametrize("private", [-1, 1025, 2**63])
def test_a_private_rank_has_an_end_as_the_shared_one_has(private):
    with pytest.raises(ValueError, match=f"{private=} is no rank; .* 1 to 1024"):
        fedavg(private=private)
    assert fedavg(private=1024).private_rank == 1024
