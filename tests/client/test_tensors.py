"""The file that Hugging Face's own library would read and write, without its copies."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fl_client import parcels, tensors
from fl_client.parcels import Parcel

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
shapes = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
any_array = arrays_of.arrays(st.sampled_from(sorted(tensors.NAMES)), shapes)
any_arrays = st.dictionaries(st.text(max_size=9).filter(lambda n: n != "__metadata__"), any_array)


def same(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (other[name].dtype, other[name].shape) == (array.dtype, array.shape)
        assert other[name].tobytes() == array.tobytes()


@quick
@given(any_arrays)
def test_the_library_reads_what_is_written_here(arrays):
    same(arrays, load(b"".join(tensors.pieces(arrays))))


@quick
@given(any_arrays)
def test_what_the_library_writes_is_read_here(tmp_path_factory, arrays):
    same(arrays, read(tmp_path_factory.mktemp("parcels"), save(arrays)))


def read(folder, content):
    import hashlib

    parcel = Parcel(hashlib.sha256(content).hexdigest(), len(content))
    parcels.path(folder, parcel).write_bytes(content)
    return parcels.read(folder, parcel)


def test_arrays_that_lie_in_memory_in_another_order_are_written_as_they_read():
    made = np.arange(12, dtype=np.float32).reshape(3, 4)
    given = {"turned": made.T, "every other": made[:, ::2], "big": made.astype(">f4")}
    found = load(b"".join(tensors.pieces(given)))
    assert all(np.array_equal(found[name], array) for name, array in given.items())


def test_a_large_array_comes_in_pieces_that_are_no_copies():
    array = np.zeros(3 * tensors.PIECE + 5, np.uint8)
    _, *pieces = tensors.pieces({"x": array})
    assert [len(each) for each in pieces] == [tensors.PIECE] * 3 + [5]
    array[0] = 7
    assert pieces[0][0] == 7


def test_what_was_read_can_be_changed_and_the_file_stays_as_it_is(tmp_path):
    parcel = parcels.keep(tmp_path, {"x": np.zeros(3, np.float32)})
    found = parcels.read(tmp_path, parcel)["x"]
    found += 1
    np.testing.assert_array_equal(parcels.read(tmp_path, parcel)["x"], np.zeros(3))


@quick
@given(any_arrays)
def test_bytes_are_read_as_views_of_them(arrays):
    content = save(arrays)
    found = tensors.over(content)
    same(arrays, found)
    memory = np.frombuffer(content, np.uint8)
    assert all(np.shares_memory(memory, x) for x in found.values() if x.size)
    assert not any(x.flags.writeable for x in found.values())


@pytest.mark.parametrize(
    "said",
    [
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}},
        {"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "O", "shape": [1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}},
        {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "xy"},
        {"x": 3},
        [],
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, said):
    text = json.dumps(said).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(4)
    with pytest.raises(ValueError, match=r"array"):
        tensors.over(content)
    with pytest.raises(ValueError, match="holds no arrays") as caught:
        read(tmp_path, content)
    assert isinstance(caught.value.__cause__, SafetensorError | KeyError)


@quick
@given(any_arrays, st.integers(0, 10**6), st.integers(1, 255))
def test_bytes_that_the_library_would_not_read_are_refused(arrays, at, flip):
    content = bytearray(save(arrays))
    content[at % len(content)] ^= flip
    try:
        found = tensors.over(bytes(content))
    except ValueError:
        return
    same(load(bytes(content)), found)


@pytest.mark.parametrize("content", [b"", bytes(7), bytes(8), b"\xff" * 20, save({})[:-1]])
def test_bytes_that_are_cut_short_are_refused(content):
    with pytest.raises(ValueError, match="array"):
        tensors.over(content)
