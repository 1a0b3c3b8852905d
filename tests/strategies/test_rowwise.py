"""Token rows are averaged over the silos that have the token; all else is FedAvg."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strategies import accumulate
from strategies.adapter import layout
from strategies.rowwise import rowwise
from strategies.strategy import Weighted

A, B, ROWS = "x.lora_A.weight", "x.lora_B.weight", "x.trainable_tokens_delta"
SHAPES = {A: (2, 3), B: (4, 2), ROWS: (5, 3)}
START = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}


def drawn(seed, silos):
    """Return updates of silos, each with about half of the rows."""
    dice = np.random.default_rng(seed)
    found = []
    for k in range(silos):
        update = {n: dice.normal(0, 0.1, s).astype(np.float32) for n, s in SHAPES.items()}
        update[ROWS] *= dice.integers(0, 2, (5, 1)).astype(np.float32)
        found.append(Weighted(f"s{k}", float(dice.uniform(0.1, 1)), update))
    return found


def slow(updates):
    """Return the mean, row by row, over those who sent the row; zeros where nobody did."""
    found = np.zeros(SHAPES[ROWS])
    for row in range(len(found)):
        sent = [
            (u.weight, u.update[ROWS][row].astype(float))
            for u in updates
            if u.update[ROWS][row].any()
        ]
        if sent:
            found[row] = sum(w * x for w, x in sent) / sum(w for w, _ in sent)
    return found


@given(st.integers(0, 999), st.integers(1, 6))
def test_a_row_is_the_mean_over_those_who_sent_it_and_the_rest_is_fedavg(seed, silos):
    updates = drawn(seed, silos)
    step, memory = rowwise().aggregate(updates, START, {})
    np.testing.assert_allclose(step[ROWS], slow(updates), atol=1e-5)
    plain = accumulate.mean_of(((u.weight, u.update) for u in updates), layout(START))
    assert all(step[n].tobytes() == plain[n].tobytes() for n in (A, B))
    assert memory == {}


@given(st.integers(0, 999), st.permutations(range(5)))
def test_the_order_of_silos_changes_no_bit_of_a_row(seed, order):
    updates = drawn(seed, 5)
    first, _ = rowwise().aggregate(updates, START, {})
    again, _ = rowwise().aggregate([updates[k] for k in order], START, {})
    assert first[ROWS].tobytes() == again[ROWS].tobytes()


def test_where_all_have_every_token_it_is_fedavg_to_the_bit():
    updates = [u._replace(update=u.update | {ROWS: u.update[ROWS] + 1}) for u in drawn(4, 4)]
    step, _ = rowwise().aggregate(updates, START, {})
    plain = accumulate.mean_of(((u.weight, u.update) for u in updates), layout(START))
    assert step[ROWS].tobytes() == plain[ROWS].tobytes()
