"""RoLoRA: one factor a round, nothing lost by averaging, and A learns (F8)."""

from __future__ import annotations

import numpy as np
import pytest

from strategies import accumulate
from strategies.adapter import layout
from strategies.ffa import ffa
from strategies.rolora import rolora

A, B = "x.lora_A.weight", "x.lora_B.weight"
ROWS = "x.token_adapter.trainable_tokens_delta"


def test_b_travels_in_odd_rounds_a_in_even_ones_and_rows_always():
    made = rolora(private=2)
    sent = [{n for n in (A, B, ROWS) if made.sent(n, r)} for r in range(1, 5)]
    assert sent == [{B, ROWS}, {A, ROWS}, {B, ROWS}, {A, ROWS}]
    assert all(made.local.trainable("x.lora_A.private", r) for r in (1, 2))


def test_a_has_changed_from_the_third_round_on():
    assert [rolora().changed(A, r) for r in (1, 2, 3)] == [False, False, True]
    assert [rolora().changed(B, r) for r in (1, 2, 3)] == [False, True, True]


SILOS, N, M = 4, 6, 5


def silos():
    """Return inputs and targets of each silo: y = b (a . x), one unknown rank-1 map for all."""
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=N), draw.normal(size=M)
    data = [draw.normal(size=(60, N)) for _ in range(SILOS)]
    return a / np.linalg.norm(a), [(x, np.outer(x @ a, b)) for x in data]


def trained(adapter, name, x, y):
    """Return the factor that fits a silo best while the other rests: its own least squares."""
    b, a = adapter[B][:, 0], adapter[A][0]
    if name == B:
        seen = x @ a
        return (y.T @ seen / (seen @ seen))[:, None]
    return np.linalg.lstsq(x, y @ b / (b @ b), rcond=None)[0][None]


def angles(strategy, rounds):
    """Return the sine of the angle between A and the truth, and what averaging lost, after each round."""
    truth, data = silos()
    draw = np.random.default_rng(2)
    adapter = {A: draw.normal(size=(1, N)), B: np.zeros((M, 1))}
    found = []
    for number in range(1, rounds + 1):
        sent = [n for n in (A, B) if strategy.sent(n, number)]
        updates = [
            {n: np.float32(trained(adapter, n, *d) - adapter[n]) for n in sent} for d in data
        ]
        mean = accumulate.mean_of([(1.0, update) for update in updates], layout(updates[0]))
        step, _ = strategy.aggregate(mean, adapter, {})
        ends = [adapter | {n: adapter[n] + update[n] for n in sent} for update in updates]
        adapter = adapter | {n: adapter[n] + step[n] for n in sent}
        lost = np.mean([e[B] @ e[A] for e in ends], axis=0) - adapter[B] @ adapter[A]
        along = adapter[A][0] @ truth / np.linalg.norm(adapter[A])
        found.append((np.sqrt(max(0, 1 - along**2)), np.abs(lost).max()))
    return found


def test_averaging_loses_nothing_in_any_round():
    assert all(lost < 1e-5 for _, lost in angles(rolora(), 8))


def test_a_turns_to_the_truth_where_ffa_stays_at_its_first_angle():
    turned, stayed = ([angle for angle, _ in angles(made, 12)] for made in (rolora(), ffa()))
    assert turned[0] > 0.5
    assert turned[-1] < 1e-3
    assert stayed[-1] == pytest.approx(stayed[0]) and stayed[0] == pytest.approx(turned[0])
