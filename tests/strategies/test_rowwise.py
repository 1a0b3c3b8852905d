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
from strategies.codecs.int2 import int2
from strategies.codecs.int4 import int4
from strategies.codecs.int8 import int8
from strategies.codecs.qsgd import qsgd
from strategies.codecs.randk import randk
from strategies.codecs.topk import topk
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
    assert memory.keys() == {f"told/{u.silo}/{ROWS}" for u in updates}


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


def turns(links, rounds=1000):
    """Return how far a row moved that two of four silos have, and by how much it should have: all send the same."""
    start, codec = {ROWS: np.zeros((5, 3), np.float32)}, chain(links)
    with_it = np.float32([[0.03], [0.5], [0.4], [0.3], [0.2]]) * np.ones((1, 3), np.float32)
    without = with_it * np.float32([[0], [1], [1], [1], [1]])
    left = {silo: codec.init(with_it.size) for silo in ("s0", "s1", "s2", "s3")}
    moved, memory = np.zeros((5, 3)), {}
    for number in range(rounds):
        sent = []
        for silo in left:
            key = Key(7, number, silo)
            rows = with_it if silo in ("s0", "s1") else without
            wire, left[silo] = codec.encode(rows.ravel(), left[silo], key)
            decoded = codec.decode(wire, rows.size, key).reshape(5, 3)
            sent.append(Weighted(silo, 1.0, {ROWS: decoded}))
        step, memory = rowwise().aggregate(sent, start, memory)
        moved += step[ROWS]
    return moved / rounds, with_it


@pytest.mark.parametrize(
    "links",
    [
        [topk(0.2)],
        [topk(0.2), int4()],
        [topk(0.4, least=0.1), qsgd(4)],
        [randk(0.3)],
        [randk(0.3), int4()],
        [qsgd(4)],
        [int8()],
        [bfloat16()],
    ],
)
def test_a_row_that_a_codec_leaves_out_in_a_round_still_counts_for_who_has_its_token(links):
    moved, wanted = turns(links)
    np.testing.assert_allclose(moved, wanted, rtol=0.12)
    assert not chosen(links)[1]


def test_a_row_rounded_by_lot_to_two_bits_moves_as_far_as_it_should_in_the_long_run():
    moved, wanted = turns([qsgd(2)], rounds=4000)
    np.testing.assert_allclose(moved.mean(axis=1), wanted.mean(axis=1), rtol=0.06)
    assert not chosen([qsgd(2)])[1]


def test_a_row_that_four_bits_round_away_in_every_round_is_one_that_the_silo_does_not_have():
    moved, wanted = turns([int4()], rounds=5)
    assert not moved[0].any()  # 0.03 beside 0.5
    np.testing.assert_allclose(moved[1:], wanted[1:], rtol=0.12)


def test_in_two_bits_a_row_of_zeros_would_look_like_one_that_the_silo_has():
    moved, wanted = turns([int2()])
    assert moved[0].mean() < 0.6 * wanted[0].mean()  # half of it: counted for silos without it
    assert chosen([int2()])[1]


def test_a_row_told_once_counts_in_later_rounds_in_which_its_silo_sends_zeros():
    (one,), zero = holders(1, 1), np.zeros((5, 3), np.float32)
    other = Weighted("s9", 1.0, {ROWS: np.full((5, 3), 0.5, np.float32)})
    _, memory = rowwise().aggregate([one], {ROWS: zero}, {})
    silent = one._replace(update={ROWS: zero})
    step, kept = rowwise().aggregate([silent, other], {ROWS: zero}, memory)
    assert np.all(step[ROWS] == 0.25)
    fresh, _ = rowwise().aggregate([silent, other], {ROWS: zero}, {})
    assert np.all(fresh[ROWS] == 0.5)
    assert kept["told/s0/" + ROWS].tobytes() == memory["told/s0/" + ROWS].tobytes()


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
