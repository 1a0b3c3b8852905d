"""Adapters of several ranks: cut, padded, and made from one seed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import widths
from strategies.adapter import initial, layout

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B, ROWS = "x.lora_A.weight", "x.lora_B.weight", "x.token_adapter.trainable_tokens_delta"
SHAPES = {A: (5, 7), B: (6, 5), ROWS: (2, 4)}


def adapter(seed=0):
    draw = np.random.default_rng(seed)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


@quick
@given(st.integers(1, 9))
def test_a_cut_adapter_has_the_first_rows_of_a_and_columns_of_b_and_all_else_whole(rank):
    held, cut = adapter(), widths.cut(adapter(), rank)
    slow = {A: held[A][:rank], B: held[B][:, :rank], ROWS: held[ROWS]}
    assert all(np.array_equal(cut[n], slow[n]) and cut[n].flags.c_contiguous for n in SHAPES)
    assert cut.keys() == SHAPES.keys()
    assert layout(cut) == widths.of(SHAPES, min(rank, 5))
    assert widths.rank(cut) == min(rank, 5)


@quick
@given(st.integers(1, 5))
def test_padding_adds_zeros_behind_and_leaves_the_product_as_it_was(rank):
    cut = widths.cut(adapter(), rank)
    padded = widths.pad(cut, SHAPES)
    assert layout(padded) == SHAPES
    assert not padded[A][rank:].any() and not padded[B][:, rank:].any()
    assert all(np.array_equal(x, cut[n]) for n, x in widths.cut(padded, rank).items())


@quick
@given(st.integers(1, 5), st.integers(0, 99))
def test_a_silo_of_a_lower_rank_makes_the_first_rows_of_everyones_seeded_start(rank, seed):
    whole = {n: initial(n, shape, seed) for n, shape in SHAPES.items()}
    own = {n: initial(n, shape, seed) for n, shape in widths.of(SHAPES, rank).items()}
    cut = widths.cut(whole, rank)
    assert all(cut[n].tobytes() == own[n].tobytes() for n in SHAPES)


def test_tensors_without_a_pair_have_no_rank():
    assert widths.rank({ROWS: adapter()[ROWS]}) == 0
