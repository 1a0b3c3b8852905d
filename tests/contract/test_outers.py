"""What holds for every outer optimizer."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load, save

SHAPES = {"x.lora_A.weight": (2, 3), "x.lora_B.weight": (4, 2)}


def tensors(seed):
    draw = np.random.default_rng(seed)
    return {n: draw.normal(0, 0.1, s).astype(np.float32) for n, s in SHAPES.items()}


def steps(outer, adapter, seeds, memory=None):
    memory = outer.init(adapter) if memory is None else memory
    for seed in seeds:
        adapter, memory = outer.step(adapter, {n: tensors(seed)[n] for n in adapter}, memory)
    return adapter, memory


def same(left, right):
    assert left.keys() == right.keys()
    assert all(left[n].tobytes() == right[n].tobytes() for n in left)


def test_memory_is_a_flat_dict_of_arrays_that_keeps_its_layout(outer):
    made = outer()
    first = made.init(tensors(0))
    _, later = steps(made, tensors(0), [1, 2])
    assert {k: (a.dtype, a.shape) for k, a in first.items()} == {
        k: (a.dtype, a.shape) for k, a in later.items()
    }
    assert all(isinstance(a, np.ndarray) for a in later.values())


def test_memory_survives_a_checkpoint(outer):
    made = outer()
    adapter, memory = steps(made, tensors(0), [1, 2])
    restored = load(save(memory))
    straight = steps(made, adapter, [3, 4], memory)
    resumed = steps(made, adapter, [3, 4], restored)
    same(straight[0], resumed[0])
    same(straight[1], resumed[1])


def test_no_change_and_no_memory_leave_the_adapter_as_it_is(outer):
    made, adapter = outer(), tensors(0)
    zero = {n: np.zeros_like(x) for n, x in adapter.items()}
    moved, _ = made.step(adapter, zero, made.init(adapter))
    same(moved, adapter)


def test_the_first_step_goes_where_the_silos_went(outer):
    made, adapter = outer(), tensors(0)
    moved, _ = steps(made, adapter, [1])
    for name, x in adapter.items():
        np.testing.assert_array_equal(np.sign(moved[name] - x), np.sign(tensors(1)[name]))


def test_the_same_steps_give_the_same_bytes_and_change_nothing_given(outer):
    adapter, delta = tensors(0), tensors(1)
    made = outer()
    _, memory = steps(made, adapter, [5])
    kept = {key: a.copy() for key, a in memory.items()}
    first, second = (made.step(adapter, delta, memory) for _ in range(2))
    same(first[0], second[0])
    same(first[1], second[1])
    same(adapter, tensors(0))
    same(delta, tensors(1))
    same(memory, kept)


def test_float32_stays_float32(outer):
    adapter, _ = steps(outer(), tensors(0), [1, 2, 3])
    assert {x.dtype for x in adapter.values()} == {np.dtype(np.float32)}


def test_a_tensor_moves_the_same_with_and_without_the_others(outer):
    together, _ = steps(outer(), tensors(0), [1, 2, 3])
    for name in SHAPES:
        alone, _ = steps(outer(), {name: tensors(0)[name]}, [1, 2, 3])
        assert alone[name].tobytes() == together[name].tobytes()


@pytest.mark.parametrize("lr", [0.0, -0.1, float("nan")])
def test_a_rate_that_is_not_above_zero_is_refused(outer, lr):
    with pytest.raises(ValueError, match="lr"):
        outer(lr=lr)
