"""The merged part against dense sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.merged import beside, compressed, grown, held
from strategies.product import Factors

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
A, B = "q.lora_A.merged", "q.lora_B.merged"


def factors(seed, rank, m=6, n=9):
    draw = np.random.default_rng(seed)
    b, a = draw.normal(size=(m, rank)), draw.normal(size=(rank, n))
    return Factors(b.astype(np.float32), a.astype(np.float32))


@quick
@given(st.integers(0, 10**6), st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_the_merged_part_is_the_sum_of_all_products_and_no_wider_than_the_matrix(seed, ranks):
    memory, slow, sizes = {}, np.zeros((6, 9)), 0.0
    for k, rank in enumerate(ranks):
        product = factors(seed + k, rank)
        memory = grown(memory, {"q": product})
        slow += product.b.astype(np.float64) @ product.a
        sizes += np.linalg.norm(product.b) * np.linalg.norm(product.a)
        assert memory[A].dtype == memory[B].dtype == np.float32
        assert len(memory[A]) == memory[B].shape[1] == min(6, sum(ranks[: k + 1]))
        assert np.linalg.norm(memory[B].astype(np.float64) @ memory[A] - slow) < 1e-6 * sizes


def test_before_the_matrix_is_full_what_was_merged_stays_as_it_was_to_the_bit():
    first = grown({}, {"q": factors(0, 2)})
    later = grown(first, {"q": factors(1, 3)})
    assert later[A][:2].tobytes() == first[A].tobytes()
    assert np.array_equal(later[B][:, :2], first[B])


def test_directions_of_zero_are_dropped_where_a_stack_is_compressed():
    same = factors(0, 2)
    twice = Factors(np.tile(same.b, (1, 4)), np.tile(same.a, (4, 1)))
    found = compressed(twice)
    assert found.a.shape == (2, 9) and found.b.shape == (6, 2)
    np.testing.assert_allclose(found.b @ found.a, 4.0 * same.b @ same.a, atol=1e-5)
    assert compressed(same) is same


def test_a_product_of_zero_merges_nothing_and_memory_is_not_changed_in_place():
    before = grown({}, {"q": factors(0, 2)})
    copy = {n: x.copy() for n, x in before.items()}
    empty = factors(1, 2)._replace(b=np.zeros((6, 2)))
    assert grown(before, {"q": empty}) == before
    assert grown({}, {"q": empty}) == {}
    grown(before, {"q": factors(2, 2)})
    assert all(np.array_equal(x, copy[n]) for n, x in before.items())


def test_silos_receive_the_adapter_and_what_is_merged_and_nothing_else_of_the_memory():
    memory = grown({"other": np.zeros(1)}, {"q": factors(0, 2)})
    adapter = {"q.lora_A.weight": np.zeros((2, 9), np.float32)}
    assert beside(adapter, memory).keys() == {"q.lora_A.weight", A, B}
    assert beside(adapter, {}) == adapter


def test_half_a_pair_is_no_merged_part():
    with pytest.raises(KeyError):
        held({A: np.zeros((2, 9), np.float32)})
