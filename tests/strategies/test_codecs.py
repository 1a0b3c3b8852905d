"""The codecs one by one: how near, how long, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import chain
from strategies.codecs.float16 import float16
from strategies.codecs.int8 import int8
from strategies.codecs.topk import topk

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)


def vectors(most, size=700):
    return hnp.arrays(np.float32, st.integers(1, size), elements=st.floats(-most, most, width=32))


def sent(links, x):
    made = chain(links)
    wire, memory = made.encode(x, made.init(x.size))
    return made.decode(wire, x.size), wire, memory


@quick
@given(vectors(65504))
def test_float16_is_numpys_half(x):
    decoded, wire, _ = sent([float16()], x)
    assert wire["values"].dtype == np.float16
    wide = x.astype(np.float64)
    assert np.all(np.abs(decoded - wide) <= np.maximum(np.abs(wide) * 2**-11, 2**-25))


@quick
@given(vectors(float(np.float32(3.38e38))))
def test_bfloat16_is_torchs(x):
    decoded, _, _ = sent([bfloat16()], x)
    expected = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    assert decoded.tobytes() == expected.tobytes()


@pytest.mark.parametrize("low", [0x7FFF, 0x8000, 0x8001])
def test_bfloat16_rounds_to_nearest_and_a_tie_to_even(low):
    bits = (np.arange(0x3F00, 0x4100, dtype=np.uint32) << 16) | np.uint32(low)
    x = bits.view(np.float32)
    decoded, _, _ = sent([bfloat16()], x)
    expected = torch.from_numpy(x).to(torch.bfloat16).to(torch.float32).numpy()
    assert decoded.tobytes() == expected.tobytes()


@quick
@given(vectors(1e6))
def test_int8_is_within_half_a_step_of_its_block(x):
    decoded, wire, _ = sent([int8()], x)
    scale = np.repeat(wire["0.scale"], 256)[: x.size].astype(np.float64)
    # float32 rounds scale / 127 and the product; below 2^-149 * 127 nothing is left of a scale
    error = np.abs(decoded.astype(np.float64) - x)
    assert np.all(error <= scale * (0.5 / 127 + 2**-22) + 127 * 2.0**-149)


def test_int8_gives_the_largest_of_each_block_back():
    x = np.zeros(600, np.float32)
    x[[3, 300, 599]] = 5.0, -0.01, 1000.0
    decoded, _, _ = sent([int8()], x)
    np.testing.assert_allclose(decoded, x, rtol=1e-6)


SIZES = [1, 5, 255, 256, 257, 1000, 4096]
BYTES = {
    "float16": ([float16()], lambda n: 2 * n),
    "bfloat16": ([bfloat16()], lambda n: 2 * n),
    "int8": ([int8()], lambda n: n + 4 * math.ceil(n / 256)),
    "topk": ([topk(0.1)], lambda n: 8 * math.ceil(0.1 * n)),
    "topk | int8": (
        [topk(0.1), int8()],
        lambda n: 5 * math.ceil(0.1 * n) + 4 * math.ceil(math.ceil(0.1 * n) / 256),
    ),
    "topk | float16": ([topk(0.1), float16()], lambda n: 6 * math.ceil(0.1 * n)),
    "topk | bfloat16": ([topk(0.1), bfloat16()], lambda n: 6 * math.ceil(0.1 * n)),
    "nothing": ([], lambda n: 4 * n),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("links", "expected"), BYTES.values(), ids=BYTES.keys())
def test_a_wire_is_as_long_as_documented(links, expected, size):
    _, wire, _ = sent(links, np.random.default_rng(size).normal(size=size).astype(np.float32))
    assert sum(array.nbytes for array in wire.values()) == expected(size)


@quick
@given(vectors(1e6), st.floats(1e-3, 1))
def test_topk_contracts_by_the_share_it_sends(x, density):
    decoded, wire, memory = sent([topk(density)], x)
    wide, kept = x.astype(np.float64), wire["0.index"].size
    left = float(np.sum((wide - decoded) ** 2))
    assert left <= (1 - kept / x.size) * float(np.sum(wide**2)) * (1 + 1e-9)
    assert kept == math.ceil(density * x.size)
    assert (decoded + memory).tobytes() == (x + np.float32(0)).tobytes()


@quick
@given(vectors(1e6), st.floats(1e-3, 1))
def test_topk_sends_nothing_smaller_than_what_it_keeps_back(x, density):
    _, wire, _ = sent([topk(density)], x)
    inside = np.zeros(x.size, bool)
    inside[wire["0.index"]] = True
    rest = np.abs(x[~inside])
    assert np.abs(x[inside]).min() >= (rest.max() if rest.size else 0)


def test_topk_breaks_ties_by_the_lowest_index():
    _, wire, _ = sent([topk(0.5)], np.float32([1, -2, 2, 2, -2, 1, 2, 0]))
    assert wire["0.index"].tolist() == [1, 2, 3, 4]
    assert wire["values"].tolist() == [-2, 2, 2, -2]


@pytest.mark.parametrize("size", [40, 300, 5000])
def test_topk_of_many_equal_numbers_is_the_first_of_them(size):
    x = np.random.default_rng(size).choice(np.float32([-2, -1, 1, 2]), size)
    _, wire, _ = sent([topk(0.25)], x)
    assert wire["0.index"].tolist() == np.flatnonzero(np.abs(x) == 2)[: size // 4].tolist()


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
def test_a_density_that_is_no_share_is_refused(density):
    with pytest.raises(ValueError, match="density"):
        topk(density)


def test_a_number_too_large_for_float16_is_refused_with_what_to_use_instead():
    with pytest.raises(ValueError, match="bfloat16"):
        sent([float16()], np.float32([1, 70000]))


@pytest.mark.parametrize("word", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_bfloat16_words_that_are_not_finite_are_refused(word):
    with pytest.raises(ValueError, match="NaN or infinity"):
        chain([bfloat16()]).decode({"values": np.uint16([0, word])}, 2)


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("number", [0, 127])
def test_an_int8_scale_that_no_vector_has_is_refused(scale, number):
    wire = {"values": np.int8([number, 127]), "0.scale": np.float32([scale])}
    with pytest.raises(ValueError):  # any words will do
        chain([int8()]).decode(wire, 2)


def test_minus_128_which_int8_never_sends_is_refused():
    wire = {"values": np.int8([-128, 127]), "0.scale": np.float32([1])}
    with pytest.raises(ValueError):  # any words will do
        chain([int8()]).decode(wire, 2)


@pytest.mark.parametrize("narrow", [float16, bfloat16, int8])
def test_a_link_after_one_that_narrows_does_not_come_back(narrow):
    x = np.linspace(-1, 1, 40, dtype=np.float32)
    with pytest.raises(ValueError, match="this codec makes"):
        sent([narrow(), topk(0.5)], x)
