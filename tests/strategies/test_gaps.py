"""Indices as coded gaps: they come back, the code is short, and no other bytes are read."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies import gaps

quick = settings(deadline=None, derandomize=True, max_examples=150, database=None)


def golomb(index, size):
    """Return the same code, gap by gap, from texts of bits."""
    count = len(index)
    divisor = max(1, round(math.log(2) * (size / count - 0.5)))
    bits = int(math.log2(divisor))
    leading, last, unary = "", "", ""
    for before, at in itertools.pairwise([-1, *index]):
        quotient, rest = divmod(at - before - 1, divisor)
        short = 2 ** (bits + 1) - divisor
        code = f"{rest:b}" if rest < short else f"{rest + short:b}"
        code = code.zfill(bits if rest < short else bits + 1)
        leading += code[:bits] if bits else ""
        last += code[bits:] if rest >= short else ""
        unary += "0" * quotient + "1"
    stream = leading + last + unary
    stream += "0" * (-len(stream) % 8)
    return [int(stream[at : at + 8], 2) for at in range(0, len(stream), 8)]


@st.composite
def chosen(draw):
    size = draw(st.integers(1, 2000))
    return sorted(draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=60))), size


@quick
@given(chosen())
def test_the_code_is_golombs_and_the_indices_come_back(case):
    index, size = case
    code = gaps.encode(np.array(index), size)
    assert code.tolist() == golomb(index, size)
    assert gaps.decode(code, len(index), size).tolist() == index


@quick
@given(chosen())
def test_however_the_indices_lie_the_code_is_not_longer_than_said(case):
    index, size = case
    assert gaps.encode(np.array(index), size).size <= gaps.longest(len(index), size)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50, 99, 100])
def test_the_first_the_last_and_all_come_back(count):
    for index in (np.arange(count), np.arange(100 - count, 100)):
        assert gaps.decode(gaps.encode(index, 100), count, 100).tolist() == index.tolist()


def test_no_index_takes_no_byte():
    assert gaps.encode(np.zeros(0, np.int64), 5).size == 0
    assert gaps.decode(np.zeros(0, np.uint8), 0, 5).size == 0


@pytest.mark.parametrize("density", [0.001, 0.005, 0.01, 0.03, 0.05, 0.1, 0.3, 0.5])
def test_an_index_chosen_by_lot_takes_its_entropy_and_a_hundredth(density):
    size, count = 400_000, int(400_000 * density)
    index = np.random.default_rng(1).permutation(size)[:count]
    bits = 8 * gaps.encode(np.sort(index), size).size / count
    ways = math.lgamma(size + 1) - math.lgamma(count + 1) - math.lgamma(size - count + 1)
    assert bits <= 1.01 * ways / math.log(2) / count


@quick
@given(st.data())
def test_any_bytes_are_the_code_of_what_they_are_read_as_or_refused(data):
    size = data.draw(st.integers(1, 60))
    count = data.draw(st.integers(1, size))
    most = gaps.longest(count, size)
    code = np.frombuffer(data.draw(st.binary(max_size=most + 1)), np.uint8)
    try:
        index = gaps.decode(code, count, size)
    except ValueError:
        return
    assert gaps.encode(index, size).tobytes() == code.tobytes()


def test_every_code_of_a_small_case_is_read_once_and_no_other():
    assert gaps.longest(2, 6) == 1
    read = []
    for byte in range(256):
        with contextlib.suppress(ValueError):
            read.append(tuple(gaps.decode(np.uint8([byte]), 2, 6).tolist()))
    assert sorted(read) == list(itertools.combinations(range(6), 2))


def test_bytes_beyond_the_longest_code_are_refused_before_they_are_unpacked(monkeypatch):
    def never(*_):
        raise AssertionError("unpacked")

    monkeypatch.setattr(np, "unpackbits", never)
    with pytest.raises(ValueError, match="at most"):
        gaps.decode(np.zeros(gaps.longest(50, 5000) + 1, np.uint8), 50, 5000)


def test_zero_bytes_after_the_last_index_are_refused():
    code = gaps.encode(np.arange(50), 5000)
    assert gaps.decode(code, 50, 5000).tolist() == list(range(50))
    assert code.size < gaps.longest(50, 5000)
    with pytest.raises(ValueError, match="does not hold 50"):
        gaps.decode(np.append(code, np.uint8(0)), 50, 5000)
