"""The algebra of adapters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies import adapter as algebra

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
FLOATS = hnp.from_dtype(np.dtype(np.float32), allow_nan=False, allow_infinity=False)
TENSORS = hnp.arrays(
    np.float32, hnp.array_shapes(max_dims=3, min_side=0, max_side=4), elements=FLOATS
)
ADAPTERS = st.dictionaries(st.text(min_size=1, max_size=5), TENSORS, max_size=4)


def some():
    return {"b": np.float32([[1, 2], [3, 4]]), "a": np.float32([5, 6, 7])}


@quick
@given(ADAPTERS)
def test_unflatten_undoes_flatten(adapter):
    shapes = algebra.layout(adapter)
    vector = algebra.flatten(adapter)
    again = algebra.unflatten(vector, shapes)
    assert vector.dtype == np.float32
    assert vector.size == algebra.size(shapes)
    assert algebra.layout(again) == shapes
    assert all(again[name].tobytes() == adapter[name].tobytes() for name in adapter)


def test_flatten_sorts_names_whatever_order_they_came_in():
    adapter = some()
    backwards = dict(reversed(adapter.items()))
    np.testing.assert_array_equal(algebra.flatten(adapter), [5, 6, 7, 1, 2, 3, 4])
    np.testing.assert_array_equal(algebra.flatten(backwards), algebra.flatten(adapter))


@quick
@given(ADAPTERS)
def test_a_change_is_the_difference_in_one_block_that_flatten_gives_as_it_is(adapter):
    shapes = algebra.layout(adapter)
    old = algebra.unflatten(np.arange(algebra.size(shapes), dtype=np.float32), shapes)
    change = algebra.change(adapter, old)
    assert algebra.sha256(change) == algebra.sha256(algebra.subtract(adapter, old))
    vector = algebra.flatten(change)
    copied = algebra.flatten({name: tensor.copy() for name, tensor in change.items()})
    assert vector.tobytes() == copied.tobytes()
    assert all(np.shares_memory(vector, tensor) for tensor in change.values() if tensor.size)


@pytest.mark.parametrize("names", ["a", "b", "ab"])
@pytest.mark.parametrize("other", [np.float32([5, 6]), np.float64([5, 6]), np.int32([5, 6])])
def test_parts_of_a_vector_among_others_are_copied_in_their_order(names, other):
    parts = algebra.unflatten(np.float32([1, 2, 3, 4]), {"a": (2,), "b": (2,)})
    given = algebra.pick(parts, names) | {"c": other}
    expected = [x for name in names for x in parts[name]] + [5, 6]
    np.testing.assert_array_equal(algebra.flatten(given), expected)
    swapped = {"a": parts["b"], "b": parts["a"]}
    np.testing.assert_array_equal(algebra.flatten(swapped), [3, 4, 1, 2])


def test_neighbours_in_a_vector_are_joined_without_a_copy_and_others_are_not():
    vector = np.arange(9, dtype=np.float32)
    parts = algebra.unflatten(vector, {"a": (2,), "b": (2, 2), "c": (0,), "d": (3,)})
    for names in ("abcd", "abd", "bd", "b", "cd"):
        joined = algebra.joined([parts[n] for n in names])
        assert joined.tolist() == [x for n in names for x in parts[n].ravel()]
        assert np.shares_memory(joined, vector)
    for apart in (["a", "d"], ["b", "a"], ["a", "a"], ["c"]):
        assert algebra.joined([parts[n] for n in apart]) is None
    assert algebra.joined([parts["a"], parts["b"].T]) is None
    assert algebra.joined([vector[0:2], vector[2:4].view(np.int32)]) is None
    assert algebra.joined([vector[::2][:2], vector[::2][2:]]) is None
    assert algebra.joined([]) is None


@pytest.mark.parametrize("vector", [np.zeros(6), np.zeros(8), np.zeros((7, 1)), np.zeros(())])
def test_a_vector_of_another_length_is_refused(vector):
    with pytest.raises(ValueError, match="7 numbers"):
        algebra.unflatten(vector, algebra.layout(some()))


def changed(**tensors):
    return {**some(), **tensors}


DIFFERENT = {
    "a name": {"b": some()["b"], "c": some()["a"]},
    "a shape": changed(b=some()["b"].reshape(4)),
    "a number": changed(a=np.float32([5, 6, 8])),
    "the sign of zero": changed(a=np.float32([5, 6, 0])),
    "another sign of zero": changed(a=np.float32([5, 6, -0.0])),
    "swapped tensors": {"a": np.float32([1, 2, 3]), "b": np.float32([[4, 5], [6, 7]])},
    "one tensor less": {"b": some()["b"]},
    "one tensor more": changed(c=np.zeros(0, np.float32)),
    "nothing": {},
}


def test_sha256_depends_on_names_shapes_and_bytes():
    digests = [algebra.sha256(adapter) for adapter in [some(), *DIFFERENT.values()]]
    assert len(set(digests)) == len(digests)
    assert all(len(d) == 64 and int(d, 16) for d in digests)


def test_sha256_does_not_depend_on_order_or_memory_layout():
    adapter = some()
    strided = {name: np.asfortranarray(x) for name, x in reversed(adapter.items())}
    assert algebra.sha256(strided) == algebra.sha256(adapter)


def test_a_name_cannot_pose_as_a_name_and_the_bytes_of_another_tensor():
    two = {"a": np.zeros(1, np.float32), "b": np.ones(1, np.float32)}
    one = {"a(1,)\0\0\0\0b": np.ones(1, np.float32)}
    assert algebra.sha256(two) != algebra.sha256(one)


def test_add_subtract_zeros_and_norm_work_tensor_by_tensor():
    adapter = some()
    doubled = algebra.add(adapter, adapter)
    np.testing.assert_array_equal(doubled["a"], [10, 12, 14])
    back = algebra.subtract(doubled, adapter)
    assert algebra.sha256(back) == algebra.sha256(adapter)
    assert algebra.norm(algebra.zeros(adapter)) == 0
    assert algebra.norm(adapter) == pytest.approx(np.sqrt(1 + 4 + 9 + 16 + 25 + 36 + 49))
    assert {x.dtype for x in doubled.values()} == {np.dtype(np.float32)}


def test_the_norm_of_large_numbers_does_not_overflow():
    assert algebra.norm({"x": np.full(4, 1e30, np.float32)}) == pytest.approx(2e30)


@pytest.mark.parametrize(
    "other",
    [{"a": some()["a"]}, changed(c=some()["a"]), changed(a=np.ones(1, np.float32))],
    ids=["a tensor less", "a tensor more", "a shape that broadcasts"],
)
@pytest.mark.parametrize("operation", [algebra.add, algebra.subtract, algebra.change])
def test_adapters_of_different_layouts_are_never_combined(operation, other):
    with pytest.raises(ValueError, match="layout"):
        operation(some(), other)


def test_pick_returns_the_named_tensors_and_misses_none():
    assert list(algebra.pick(some(), ["b"])) == ["b"]
    with pytest.raises(KeyError):
        algebra.pick(some(), ["b", "missing"])


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "A"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", "B"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "rows"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.private", "private"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.private", "private"),
    ],
)
def test_every_name_of_an_adapter_belongs_to_one_part(name, part):
    assert algebra.part(name) == part


@pytest.mark.parametrize(
    "name", ["", "lm_head.weight", "x.lora_A", "x.lora_A.bias", "lora_A.weight"]
)
def test_a_name_that_is_no_adapter_tensor_is_refused(name):
    with pytest.raises(ValueError, match="no adapter tensor"):
        algebra.part(name)


A = "x.lora_A.weight"


def test_the_seeded_start_depends_on_seed_and_name_alone():
    first = algebra.initial(A, (4, 9), 1)
    assert algebra.initial(A, (4, 9), 1).tobytes() == first.tobytes()
    for other in (algebra.initial(A, (4, 9), 2), algebra.initial("y.lora_A.weight", (4, 9), 1)):
        assert not np.any(other == first)


def test_the_seeded_start_is_the_same_for_ever():
    assert algebra.initial(A, (2, 3), 7).astype("<f4").tobytes() == GOLDEN


def test_a_is_kaiming_uniform_in_its_inputs():
    start = algebra.initial(A, (64, 400), 0)
    bound = 1 / 20
    assert start.dtype == np.float32
    assert np.abs(start).max() <= bound
    assert np.abs(start).max() > 0.99 * bound
    assert abs(float(start.mean())) < 0.01 * bound
    assert float(start.std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize(
    "name", ["x.lora_B.weight", "x.trainable_tokens_delta", "x.lora_B.private"]
)
def test_b_and_rows_start_at_zero(name):
    start = algebra.initial(name, (3, 5), 1)
    assert start.dtype == np.float32
    assert start.shape == (3, 5)
    assert not start.any()


def test_the_private_a_starts_elsewhere_than_the_shared_one():
    assert algebra.initial("x.lora_A.private", (4, 9), 1).any()
    assert np.any(algebra.initial("x.lora_A.private", (4, 9), 1) != algebra.initial(A, (4, 9), 1))


GOLDEN = bytes.fromhex("0dc2373ebc3a77be8fa23fbe0ce6fc3eda5bbb3e3c49043d")
