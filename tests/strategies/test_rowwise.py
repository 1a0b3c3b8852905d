"""Token rows are averaged over the silos that have the token; all else is FedAvg."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_server import merge
from fl_server.journal import State
from strategies import accumulate
from strategies.adapter import layout
from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import Key, chain
from strategies.codecs.int4 import int4
from strategies.codecs.int8 import int8
from strategies.codecs.qsgd import qsgd
from strategies.combine import Parts, refusals
from strategies.guards.bulyan import bulyan
from strategies.guards.guard import Guard, judged
from strategies.guards.median import median
from strategies.guards.multi_krum import multi_krum
from strategies.guards.norm_clip import norm_clip
from strategies.guards.trimmed_mean import trimmed_mean
from strategies.outer.mean import mean
from strategies.rowwise import rowwise
from strategies.strategy import Weighted
from strategies.weights.uniform import uniform

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


def chosen(codec=(), guard=None, buffered=False):
    """Return these parts with rowwise, and whether they are refused."""
    parts = Parts(rowwise(), uniform(), mean(), chain(codec), guard or Guard(), buffered=buffered)
    return parts, bool(refusals(parts))


def holders(few, silos=7):
    """Return updates of one row of which the first few silos alone have the token; their other rows all have."""
    rows = np.full((5, 3), 0.5, np.float32)
    without = rows.copy()
    without[0] = 0
    return [Weighted(f"s{k}", 1.0, {ROWS: rows if k < few else without}) for k in range(silos)]


@pytest.mark.parametrize(
    ("guard", "kept"),
    [
        (median(), False),
        (trimmed_mean(0.3), False),
        (bulyan(1), False),
        (multi_krum(1), True),
        (norm_clip(), True),
    ],
)
def test_a_guard_is_refused_where_it_would_take_away_the_rows_that_few_silos_have(guard, kept):
    start = {ROWS: np.zeros((5, 3), np.float32)}
    left = judged(guard, holders(2), start, {}).kept
    step, _ = rowwise().aggregate(left, start, {})
    assert bool(step[ROWS][0].any()) == kept and step[ROWS][1:].all()
    assert chosen(guard=guard)[1] != kept


@pytest.mark.parametrize(
    ("link", "fits"),
    [(qsgd(2), False), (int4(), False), (qsgd(4), False), (int8(), True), (bfloat16(), True)],
)
def test_a_codec_is_refused_where_a_small_row_becomes_one_that_a_silo_does_not_have(link, fits):
    rows = np.full((5, 3), 0.5, np.float32)
    rows[0] = 0.03  # beside others of a block, a sixteenth of their size
    start, codec, gains = {ROWS: np.zeros_like(rows)}, chain([link]), []
    for number in range(200):
        sent = []
        for silo in ("s0", "s1", "s2", "s3"):
            key = Key(7, number, silo)
            wire, _ = codec.encode(rows.ravel(), codec.init(rows.size), key)
            sent.append(
                Weighted(silo, 1.0, {ROWS: codec.decode(wire, rows.size, key).reshape(5, 3)})
            )
        gains.append(rowwise().aggregate(sent, start, {})[0][ROWS][0].mean() / 0.03)
    assert (abs(np.mean(gains) - 1) < 0.05) == fits
    assert chosen([link])[1] != fits


def test_a_buffer_is_refused_where_its_share_would_be_taken_of_rows_that_one_silo_alone_has():
    parts, refused = chosen(buffered=True)
    state = State(0, {"as": {ROWS: np.zeros((5, 3), np.float32)}}, {"as": {}}, {"as": {}})
    arrived = merge.empty(parts, state)
    (one,) = holders(1, 1)
    arrived = merge.add(arrived, parts, {"as": [ROWS]}, one.silo, 1.0, one.update)
    arrived = arrived._replace(
        shares={"as": 0.25}
    )  # of four silos, of which it alone has the token
    moved = merge.close(arrived, parts, state)[0].adapter["as"]
    assert np.all(moved[ROWS] == np.float32(0.125))  # and not the 0.5 that its holders moved by
    assert refused and not chosen(buffered=False)[1]
