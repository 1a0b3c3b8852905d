"""Subspaces and surveys: signs known to the bit, leading directions, sketches that add up."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import accumulate, survey
from strategies.fedsb import fedsb
from strategies.ffa import ffa
from strategies.subspace import basis, leading, signs

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B, CORE = "x.lora_A.weight", "x.lora_B.weight", "x.lora_B.core"
ROWS = "e.trainable_tokens_delta"
SHAPES = {A: (3, 30), B: (20, 3), CORE: (3, 3), ROWS: (5, 7)}
GOLDEN = [-1, 1, 1, 1, -1, -1, -1, 1, -1, 1, -1, 1]


def gradient(seed, m=20, n=30, rank=6):
    """Return a matrix of some leading directions and a little of all others, as gradients are."""
    draw = np.random.default_rng(seed)
    product = draw.normal(size=(m, rank)) @ draw.normal(size=(rank, n))
    return product / np.sqrt(rank) + 0.2 * draw.normal(size=(m, n))


def sketches(g, shapes=SHAPES, names=(A, B), seed=7):
    """Return the sketches of one gradient, the slow way."""
    made = {A: lambda p: p.T @ g, B: lambda q: g @ q.T}
    return {n: made[n](survey.frame(n, shapes, seed)).astype(np.float32) for n in names}


def test_signs_are_known_to_the_bit_on_every_machine():
    assert signs((3, 4), "7:x").ravel().tolist() == GOLDEN
    assert signs((9, 15), "k").dtype == np.float32


def test_signs_are_even_and_those_of_two_rows_have_nothing_in_common():
    drawn = signs((40, 5000), "k")
    assert set(np.unique(drawn)) == {-1.0, 1.0}
    assert np.abs(drawn @ drawn.T / 5000 - np.eye(40)).max() < 0.08


@quick
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 12), st.integers(1, 12))
def test_leading_rows_are_orthonormal_and_hold_all_of_a_matrix_of_their_rank(seed, rank, m, n):
    draw = np.random.default_rng(seed)
    z = draw.normal(size=(m, min(rank, n))) @ draw.normal(size=(min(rank, n), n))
    found = leading(z, rank)
    assert found.shape == (rank, n) and found.dtype == np.float32
    held = min(rank, m, n)
    size = np.diag((np.arange(rank) < held).astype(float))
    np.testing.assert_allclose(found.astype(float) @ found.T, size, atol=1e-6)
    np.testing.assert_allclose(z @ found.T @ found, z, atol=1e-5 * np.abs(z).max())
    assert all(row[np.argmax(np.abs(row))] > 0 for row in found[:held])


def test_of_a_sketch_that_is_zero_the_leading_rows_are_orthonormal_all_the_same():
    found = leading(np.zeros((4, 9)), 2)
    np.testing.assert_allclose(found @ found.T, np.eye(2), atol=1e-7)


@pytest.mark.parametrize(
    ("made", "parts"),
    [(ffa(init="gradsketch"), [A]), (fedsb(), [A, B]), (fedsb("language"), [A, B])],
)
def test_silos_sketch_the_factors_that_begin_at_what_is_found(made, parts):
    wanted = {A: (6, 30), B: (20, 6)}
    assert survey.sketched(made.survey, SHAPES) == {n: wanted[n] for n in parts}
    assert survey.sketched(made.survey, {ROWS: (5, 7)}) == {}


def test_the_frame_of_a_factor_has_the_shape_of_the_other_and_a_draw_of_its_own():
    p, q = (survey.frame(n, SHAPES, 7) for n in (A, B))
    assert (p.shape, q.shape) == ((20, 6), (6, 30))
    other = survey.frame("y.lora_A.weight", {"y" + n[1:]: s for n, s in SHAPES.items()}, 7)
    assert not np.array_equal(p, other)
    assert not np.array_equal(p, survey.frame(A, SHAPES, 8))


@quick
@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=4), st.integers(0, 10**6))
def test_the_sum_of_sketches_is_the_sketch_of_the_sum_and_their_order_changes_no_byte(
    weights, seed
):
    own = [gradient(seed + k) for k in range(len(weights))]
    told = [(w, sketches(g)) for w, g in zip(weights, own, strict=True)]
    shapes = survey.sketched(fedsb().survey, SHAPES)
    share = np.array(weights) / sum(weights)
    means = [accumulate.mean_of(order, shapes) for order in itertools.permutations(told)]
    for name, wanted in sketches(np.tensordot(share, own, 1)).items():
        np.testing.assert_allclose(means[0][name], wanted, rtol=1e-5, atol=1e-5)
        assert len({mean[name].tobytes() for mean in means}) == 1


def explained(g, a):
    """Return the share of the energy of a matrix that lies in the rows of A."""
    rows = a / np.linalg.norm(a, axis=1, keepdims=True)
    return np.sum((g @ rows.T) ** 2) / np.sum(g**2)


def start():
    draw = np.random.default_rng(1)
    return {n: draw.normal(size=s).astype(np.float32) for n, s in SHAPES.items()}


@quick
@given(st.integers(0, 10**6))
def test_gradsketch_holds_more_of_the_gradient_than_any_a_of_the_seed_alone(seed):
    g = sum(gradient(seed + k) for k in range(3))
    a = ffa(init="gradsketch").survey.found(sketches(g, names=[A]), start(), "7")[A]
    np.testing.assert_allclose(a.astype(float) @ a.T, np.eye(3) / 3, atol=1e-6)
    drawn = basis(a.shape, f"{seed}")
    uniform = np.linalg.qr(np.random.default_rng(seed).normal(size=a.T.shape))[0].T
    assert explained(g, a) >= max(explained(g, drawn), explained(g, uniform))
    best = np.sum(np.linalg.svd(g, compute_uv=False)[:3] ** 2) / np.sum(g**2)
    assert 0.5 * best <= explained(g, a) <= best + 1e-9


@quick
@given(st.integers(0, 10**6))
def test_both_subspaces_of_core_hold_a_gradient_of_their_rank_whole(seed):
    g = gradient(seed, rank=3) - 0.2 * np.random.default_rng(seed).normal(size=(1, 1))
    u, s, vt = np.linalg.svd(g)
    g = (u[:, :3] * s[:3]) @ vt[:3]
    found = fedsb().survey.found(sketches(g), start(), "7")
    b, a = found[B].astype(float), found[A].astype(float)
    np.testing.assert_allclose(a @ a.T, np.eye(3) / 3, atol=1e-6)
    np.testing.assert_allclose(b.T @ b, np.eye(3) * 20 / 3, atol=1e-5)
    r = np.linalg.pinv(b) @ g @ np.linalg.pinv(a)
    np.testing.assert_allclose(b @ r @ a, g, atol=1e-4 * np.abs(g).max())
    assert not found[CORE].any()


@pytest.mark.parametrize("made", [ffa(init="gradsketch"), fedsb()])
def test_a_group_of_which_nobody_told_anything_begins_at_a_subspace_of_the_seed(made):
    one, two = (made.survey.found({}, start(), key) for key in ("7", "8"))
    np.testing.assert_allclose(one[A] @ one[A].T, np.eye(3) / 3, atol=1e-6)
    assert np.linalg.matrix_rank(one[B]) == 3
    assert not np.array_equal(one[A], two[A])
    assert one[ROWS].tobytes() == start()[ROWS].tobytes()
