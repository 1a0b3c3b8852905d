"""The codecs one by one: how near, how long, and what they refuse."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import Key, chain
from strategies.codecs.float16 import float16
from strategies.codecs.int2 import int2
from strategies.codecs.int4 import int4
from strategies.codecs.int8 import int8
from strategies.codecs.qsgd import qsgd
from strategies.codecs.randk import randk
from strategies.codecs.topk import largest, topk

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
KEY = Key(seed=7, round=3, silo="clinic")
topk_file = sys.modules[topk.__module__]


def vectors(most, size=700):
    return hnp.arrays(np.float32, st.integers(1, size), elements=st.floats(-most, most, width=32))


def sent(links, x):
    made = chain(links)
    wire, memory = made.encode(x, made.init(x.size), KEY)
    return made.decode(wire, x.size, KEY), wire, memory


def chosen(codec, x):
    """Return the indices that a codec sends, as the hub reads them."""
    marks = codec.decode(
        np.ones(codec.kept(x.size), np.float32), codec.encode(x, KEY)[1], x.size, KEY
    )
    return np.flatnonzero(marks).tolist()


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


@pytest.mark.parametrize(("codec", "levels"), [(int8(), 127), (int4(), 7)])
@quick
@given(vectors(1e6))
def test_int8_and_int4_are_within_half_a_step_of_their_block(codec, levels, x):
    decoded, wire, _ = sent([codec], x)
    scale = np.repeat(wire["0.scale"], 256)[: x.size].astype(np.float64)
    # the result is rounded to float32, where below 2^-149 nothing is left
    error = np.abs(decoded.astype(np.float64) - x)
    assert np.all(error <= scale * (0.5 / levels + 2**-22) + 2.0**-149)


def in_blocks(x, decoded):
    """Yield the numbers of each block of 256, and what came back of them."""
    for at in range(0, x.size, 256):
        yield [float(number) for number in x[at : at + 256]], decoded[at : at + 256]


@quick
@given(vectors(1e6))
def test_int4_is_the_slow_rounding_of_each_number(x):
    for block, decoded in in_blocks(x, sent([int4()], x)[0]):
        scale = max(map(abs, block)) or 1.0
        slow = [round(number / scale * 7) * (scale / 7) for number in block]
        assert decoded.tolist() == np.float32(slow).tolist()


@pytest.mark.parametrize("codec", [int8(), int4(), qsgd(8), qsgd(4), qsgd(2)])
def test_the_largest_of_each_block_comes_back_to_the_bit(codec):
    x = np.zeros(600, np.float32)
    x[[3, 300, 599]] = 5.0, -0.01, 1000.0
    decoded, _, _ = sent([codec], x)
    assert decoded.tobytes() == x.tobytes()


SIZES = [1, 5, 255, 256, 257, 1000, 4096]
BYTES = {
    "float16": ([float16()], lambda n: 2 * n),
    "bfloat16": ([bfloat16()], lambda n: 2 * n),
    "int8": ([int8()], lambda n: n + 4 * math.ceil(n / 256)),
    "int4": ([int4()], lambda n: math.ceil(n / 2) + 4 * math.ceil(n / 256)),
    "int2": ([int2()], lambda n: math.ceil(n / 4) + 8 * math.ceil(n / 256)),
    "qsgd 8": ([qsgd()], lambda n: n + 4 * math.ceil(n / 256)),
    "qsgd 4": ([qsgd(4)], lambda n: math.ceil(n / 2) + 4 * math.ceil(n / 256)),
    "qsgd 2": ([qsgd(2)], lambda n: math.ceil(n / 4) + 4 * math.ceil(n / 256)),
    "topk": ([topk(0.1)], lambda n: 4 * tenth(n)),
    "topk | int8": ([topk(0.1), int8()], lambda n: tenth(n) + 4 * math.ceil(tenth(n) / 256)),
    "topk | float16": ([topk(0.1), float16()], lambda n: 2 * tenth(n)),
    "topk | bfloat16": ([topk(0.1), bfloat16()], lambda n: 2 * tenth(n)),
    "topk | int2": (
        [topk(0.1), int2()],
        lambda n: math.ceil(tenth(n) / 4) + 8 * math.ceil(tenth(n) / 256),
    ),
    "randk": ([randk(0.1)], lambda n: 4 * tenth(n)),
    "randk | int8": ([randk(0.1), int8()], lambda n: tenth(n) + 4 * math.ceil(tenth(n) / 256)),
    "nothing": ([], lambda n: 4 * n),
}


def tenth(size):
    return math.ceil(0.1 * size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("links", "expected"), BYTES.values(), ids=BYTES.keys())
def test_a_wire_is_as_long_as_documented(links, expected, size):
    _, wire, _ = sent(links, np.random.default_rng(size).normal(size=size).astype(np.float32))
    gaps = wire.pop("0.gaps", np.zeros(0, np.uint8))
    assert sum(array.nbytes for array in wire.values()) == expected(size)
    assert gaps.nbytes <= 6.5 * tenth(size) / 8 + 1


@quick
@given(vectors(1e6), st.floats(1e-3, 1))
def test_topk_contracts_by_the_share_it_sends(x, density):
    decoded, wire, memory = sent([topk(density)], x)
    wide, kept = x.astype(np.float64), wire["values"].size
    left = float(np.sum((wide - decoded) ** 2))
    assert left <= (1 - kept / x.size) * float(np.sum(wide**2)) * (1 + 1e-9)
    assert kept == math.ceil(density * x.size)
    assert (decoded + memory).tobytes() == (x + np.float32(0)).tobytes()


@quick
@given(vectors(1e6), st.floats(1e-3, 1))
def test_topk_sends_nothing_smaller_than_what_it_keeps_back(x, density):
    inside = np.zeros(x.size, bool)
    inside[chosen(topk(density), x)] = True
    rest = np.abs(x[~inside])
    assert np.abs(x[inside]).min() >= (rest.max() if rest.size else 0)


def test_topk_breaks_ties_by_the_lowest_index():
    x = np.float32([1, -2, 2, 2, -2, 1, 2, 0])
    assert chosen(topk(0.5), x) == [1, 2, 3, 4]
    assert sent([topk(0.5)], x)[1]["values"].tolist() == [-2, 2, 2, -2]


@pytest.mark.parametrize("size", [40, 300, 5000])
def test_topk_of_many_equal_numbers_is_the_first_of_them(size):
    x = np.random.default_rng(size).choice(np.float32([-2, -1, 1, 2]), size)
    assert chosen(topk(0.25), x) == np.flatnonzero(np.abs(x) == 2)[: size // 4].tolist()


@quick
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.integers(-3, 3)), st.data())
def test_the_largest_are_those_of_a_stable_sort(x, data):
    count = data.draw(st.integers(0, x.size))
    slow = sorted(sorted(range(x.size), key=lambda at: -x[at])[:count])
    assert largest(x, count).tolist() == slow


def sampled(draw, size):
    """Return vectors of which a sample tells much, little, or something false."""
    told = np.zeros(size, np.float32)
    told[:: size // topk_file.SAMPLE | 1] = 100 + draw.normal(
        size=told[:: size // topk_file.SAMPLE | 1].size
    )
    return {
        "normal": draw.normal(size=size),
        "heavy": draw.standard_cauchy(size),
        "equal": draw.choice([-1.0, 1.0, 0.5], size),
        "zeros": np.where(draw.random(size) < 0.01, 1.0, 0.0),
        "only the sample is large": told,
        "the sample is small": 1 - told,
    }


@pytest.mark.parametrize("density", [0.001, 0.01, 0.2, 0.9])
def test_the_largest_are_the_same_whatever_a_sample_tells(density, monkeypatch):
    monkeypatch.setattr(topk_file, "SAMPLE", 256)
    monkeypatch.setattr(topk_file, "BLOCK", 1000)
    size, sampling = 4001, 0
    for x in sampled(np.random.default_rng(5), size).values():
        x = x.astype(np.float32)
        count = math.ceil(density * size)
        slow = np.sort(np.argsort(-np.abs(x), kind="stable")[:count])
        assert largest(x, count, np.abs).tolist() == slow.tolist()
        sampling += topk_file._candidates(x, count, np.abs) is not None
    assert (sampling > 0) == (density < 0.5)


@quick
@given(vectors(1e3), st.floats(0.01, 1))
def test_decay_is_what_is_left_of_the_residual_a_round_later(x, decay):
    made = chain([topk(0.2, decay=decay), int8()])
    _, first = made.encode(x, made.init(x.size), KEY)
    wire, second = made.encode(x, first, KEY)
    wanted = decay * first + x
    assert (second == wanted - made.decode(wire, x.size, KEY)).all()


def test_what_is_left_out_fades_with_a_decay_and_stays_without():
    x, zero = np.float32([2, 1, 0, 0]), np.zeros(4, np.float32)
    for decay, then in ((1.0, 1.0), (0.5, 0.25)):
        made = chain([topk(0.25, decay=decay)])
        _, memory = made.encode(x, made.init(4), KEY)
        _, memory = made.encode(np.float32([0, 0, 9, 0]), memory, KEY)
        wire, _ = made.encode(zero, memory, KEY)
        assert made.decode(wire, 4, KEY).tolist() == [0, then, 0, 0]


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, float("nan")])
@pytest.mark.parametrize("codec", [topk, randk])
def test_a_density_that_is_no_share_is_refused(codec, density):
    with pytest.raises(ValueError, match="density"):
        codec(density)


@pytest.mark.parametrize("decay", [0.0, -0.1, 1.01, float("nan")])
def test_a_decay_that_keeps_nothing_or_more_than_all_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        topk(0.1, decay=decay)


def test_a_number_too_large_for_float16_is_refused_with_what_to_use_instead():
    with pytest.raises(ValueError, match="bfloat16"):
        sent([float16()], np.float32([1, 70000]))


@pytest.mark.parametrize("word", [0x7F80, 0xFF80, 0x7FC0, 0xFFFF])
def test_bfloat16_words_that_are_not_finite_are_refused(word):
    with pytest.raises(ValueError, match="NaN or infinity"):
        chain([bfloat16()]).decode({"values": np.uint16([0, word])}, 2, KEY)


@pytest.mark.parametrize("scale", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("number", [0, 127])
def test_an_int8_scale_that_no_vector_has_is_refused(scale, number):
    wire = {"values": np.int8([number, 127]), "0.scale": np.float32([scale])}
    with pytest.raises(ValueError):  # any words will do
        chain([int8()]).decode(wire, 2, KEY)


def test_minus_128_which_int8_never_sends_is_refused():
    wire = {"values": np.int8([-128, 127]), "0.scale": np.float32([1])}
    with pytest.raises(ValueError):  # any words will do
        chain([int8()]).decode(wire, 2, KEY)


@pytest.mark.parametrize("codec", [int8(), int4(), qsgd(4)])
@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_steps_that_do_not_fit_their_scale_are_refused(codec, scale):
    # A scale of zero has only zeros, and in every other block one number is as large as its scale.
    wire = sent([codec], np.float32([0.1, 0.7, -0.3]) if scale == 0 else np.zeros(3, np.float32))[1]
    with pytest.raises(ValueError, match="scale"):
        chain([codec]).decode(wire | {"0.scale": np.float32([scale])}, 3, KEY)


ENDS = [(int4(), 0x08, 0x18), (qsgd(4), 0x08, 0x18), (qsgd(2), 0x02, 0x06)]


@pytest.mark.parametrize(("codec", "right", "wrong"), ENDS)
def test_numbers_beyond_the_end_are_refused(codec, right, wrong):
    made, scale = chain([codec]), np.float32([0])
    assert made.decode({"values": np.uint8([right]), "0.scale": scale}, 1, KEY) == [0]
    with pytest.raises(ValueError, match="last byte"):
        made.decode({"values": np.uint8([wrong]), "0.scale": scale}, 1, KEY)


TWO = {  # codes of four numbers: bit 0 is the sign, bit 1 the size; then both sizes
    "all large": ([0b10101010, [1.0, 2.0]], [2, 2, 2, 2]),
    "one below zero": ([0b10101011, [1.0, 2.0]], [-2, 2, 2, 2]),
    "all small": ([0b00000100, [1.0, 0.0]], [1, -1, 1, 1]),
    "a large size that nothing has": ([0b00000000, [1.0, 2.0]], None),
    "a large size that is none": ([0b10101010, [1.0, 0.5]], None),
    "below zero": ([0b10101010, [-1.0, 2.0]], None),
    "no number": ([0b10101010, [1.0, np.nan]], None),
    "infinity": ([0b10101010, [1.0, np.inf]], None),
}


@pytest.mark.parametrize(("sent", "wanted"), TWO.values(), ids=TWO.keys())
def test_two_bits_are_a_sign_and_one_of_two_sizes_of_a_block(sent, wanted):
    wire = {"values": np.uint8([sent[0]]), "0.scale": np.float32(sent[1])}
    if wanted is None:
        with pytest.raises(ValueError, match="sizes are no finite numbers"):
            chain([int2()]).decode(wire, 4, KEY)
    else:
        assert chain([int2()]).decode(wire, 4, KEY).tolist() == wanted


@quick
@given(vectors(1e6))
def test_int2_sends_of_each_block_the_mean_sizes_of_what_is_above_and_below_its_mean_size(x):
    for block, decoded in in_blocks(x, sent([int2()], x)[0]):
        middle = math.fsum(map(abs, block)) / len(block)
        halves = {
            large: [abs(n) for n in block if (abs(n) > middle) == large] for large in (True, False)
        }
        means = {large: math.fsum(half) / max(len(half), 1) for large, half in halves.items()}
        slow = [math.copysign(means[abs(n) > middle], n) if n else means[False] for n in block]
        np.testing.assert_allclose(decoded, slow, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("narrow", [float16, bfloat16, int8, int4, int2, qsgd])
def test_a_link_after_one_that_narrows_does_not_come_back(narrow):
    x = np.linspace(-1, 1, 40, dtype=np.float32)
    with pytest.raises(ValueError, match="this codec makes|does not hold"):
        sent([narrow(), topk(0.5)], x)
