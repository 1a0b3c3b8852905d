"""The codecs that draw lots: what a key fixes, what is unbiased (F21), what commutes with sums (F20)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies import blocks, draw
from strategies.codecs.codec import Key, chain
from strategies.codecs.int4 import int4
from strategies.codecs.qsgd import qsgd
from strategies.codecs.randk import randk

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
KEY = Key(seed=7, round=3, silo="clinic")
OTHERS = {
    "seed": KEY._replace(seed=8),
    "round": KEY._replace(round=4),
    "silo": KEY._replace(silo="college"),
}
each_width = pytest.mark.parametrize("bits", [8, 4, 2])


def normal(size, seed=0):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


def vectors(most):
    return hnp.arrays(np.float32, st.integers(1, 700), elements=st.floats(-most, most, width=32))


def sent(codec, x, key=KEY):
    made = chain([codec])
    wire, _ = made.encode(x, made.init(x.size), key)
    return made.decode(wire, x.size, key), wire


def support(size, key, density=0.05):
    return np.flatnonzero(sent(randk(density), np.ones(size, np.float32), key)[0])


def test_words_are_those_of_philox_keyed_by_the_hash_of_the_text():
    # SHA-256 of "abc" begins with ba7816bf 8f01cfea 414140de 5dae2223, read in little-endian words.
    key = np.array([0xEACF018FBF1678BA, 0x2322AE5DDE404141], np.uint64)
    assert draw.words("abc", 5).tolist() == np.random.Philox(key=key).random_raw(5).tolist()
    assert draw.words("abc", 9)[:5].tolist() == draw.words("abc", 5).tolist()


@each_width
@quick
@given(vectors(1e6))
def test_qsgd_is_one_of_the_two_steps_around_a_number(bits, x):
    decoded, wire = sent(qsgd(bits), x)
    step = np.repeat(wire["0.scale"].astype(np.float64), 256)[: x.size] / (2 ** (bits - 1) - 1)
    error = np.abs(decoded.astype(np.float64) - x)
    assert np.all(error <= step * (1 + 2**-16) + 2.0**-149)


@each_width
def test_qsgd_is_right_on_average(bits):
    x = np.tile(np.float32([1, 0.731, 0.5, -0.004, 0.25, -0.613, 1e-3, -1]), 16)
    draws = 100_000
    many = np.tile(x, draws // 16)  # blocks of the same 8 numbers, each drawn anew
    decoded, _ = sent(qsgd(bits), many)
    step = 1 / (2 ** (bits - 1) - 1)
    for at, number in enumerate(x[:8].astype(np.float64)):
        errors = decoded[at::8].astype(np.float64) - number
        upper = number / step - np.floor(number / step)
        sigma = step * np.sqrt(upper * (1 - upper) / errors.size)
        assert errors.size == draws
        assert abs(errors.mean()) <= 5 * sigma + 1e-7


@each_width
@pytest.mark.parametrize("number", [0.0, 1.0, -0.1, 3e-41, 1e30])
def test_qsgd_gives_blocks_of_one_size_back_to_the_bit(bits, number):
    x = np.full(600, number, np.float32)
    x[::3] *= -1
    decoded, _ = sent(qsgd(bits), x)
    np.testing.assert_array_equal(decoded, x)


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_qsgd_draws_anew_for_each_seed_round_and_silo(other):
    x = normal(1000)
    first, again, then = (sent(qsgd(4), x, key)[1]["values"] for key in (KEY, KEY, other))
    assert first.tobytes() == again.tobytes()
    # neither of one draw nor of shifted ones: about a third of the numbers fall otherwise
    assert 100 < np.count_nonzero(first != then) < 450


@pytest.mark.parametrize("bits", [0, 1, 3, 16, 32])
def test_qsgd_of_another_width_is_refused(bits):
    with pytest.raises(ValueError, match="8, 4 or 2"):
        qsgd(bits)


@each_width
@quick
@given(st.data())
def test_packed_steps_come_back_and_fill_their_bytes_from_the_low_end(bits, data):
    half = 2 ** (bits - 1)
    steps = data.draw(
        hnp.arrays(np.int16, st.integers(0, 40), elements=st.integers(1 - half, half - 1))
    )
    packed = blocks.pack(steps, bits)
    slow = sum((int(step) + half) << bits * at for at, step in enumerate(steps))
    assert packed.tobytes() == slow.to_bytes(blocks.packed_size(steps.size, bits), "little")
    assert blocks.unpack(packed, bits, steps.size).tolist() == steps.tolist()


@pytest.mark.parametrize("size", [1, 20, 1000, 70_001])
def test_randk_chooses_the_same_coordinates_in_every_silo_and_others_in_every_round(size):
    chosen = support(size, KEY)
    assert chosen.size == -(-size // 20)
    assert chosen.tolist() == support(size, OTHERS["silo"]).tolist()
    if size >= 1000:
        for other in ("seed", "round"):
            both = np.intersect1d(chosen, support(size, OTHERS[other])).size
            assert both < 0.2 * chosen.size


def test_randk_chooses_every_coordinate_as_often():
    counts = np.zeros(200)
    for number in range(2000):
        counts[support(200, KEY._replace(round=number))] += 1
    # 100 times each of 2000, with a standard deviation below 10
    assert counts.sum() == 2000 * 10
    assert np.all(np.abs(counts - 100) < 50)


def test_randk_chooses_the_same_coordinates_in_another_process():
    code = (
        "import numpy as np; from strategies.codecs.codec import Key; "
        "from strategies.codecs.randk import randk; "
        "x = np.arange(5000, dtype=np.float32); "
        "print(randk(0.01).encode(x, Key(7, 3, 'elsewhere'))[0].astype(int).tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(support(5000, KEY, 0.01).tolist())


@quick
@given(st.integers(1, 300), st.integers(0, 2**32), st.floats(0.01, 1))
def test_randk_commutes_with_sums(size, seed, density):
    codec, parts = randk(density), [normal(size, seed + k) for k in range(5)]
    keys = [KEY._replace(silo=f"silo-{k}") for k in range(5)]
    summed, _ = codec.encode(np.sum(parts, axis=0), KEY)
    encoded = [codec.encode(x, key)[0] for x, key in zip(parts, keys, strict=True)]
    assert summed.tobytes() == np.sum(encoded, axis=0).tobytes()
    one_by_one = np.sum(
        [codec.decode(v, {}, size, k) for v, k in zip(encoded, keys, strict=True)], 0
    )
    assert codec.decode(summed, {}, size, KEY).tobytes() == one_by_one.tobytes()


@quick
@given(vectors(1e6), st.floats(0.01, 1))
def test_randk_sends_what_it_chose_as_it_was_and_remembers_the_rest(x, density):
    made = chain([randk(density)])
    wire, memory = made.encode(x, made.init(x.size), KEY)
    inside = np.zeros(x.size, bool)
    inside[support(x.size, KEY, density)] = True
    assert wire.keys() == {"values"}
    np.testing.assert_array_equal(made.decode(wire, x.size, KEY), np.where(inside, x, 0))
    np.testing.assert_array_equal(memory, np.where(inside, 0, x))


@pytest.mark.parametrize("narrow", [int4(), qsgd(4), qsgd(2)])
def test_a_residual_stays_bounded_exactly_where_the_chain_contracts(narrow):
    made, x = chain([randk(0.5), narrow]), normal(4096)
    memory = made.init(x.size)
    for number in range(60):
        _, memory = made.encode(x, memory, KEY._replace(round=number))
    assert (np.linalg.norm(memory) < 10 * np.linalg.norm(x)) == narrow.contracts
