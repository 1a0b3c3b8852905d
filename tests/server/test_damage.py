"""Bits that turn on a disk: nothing false is taken for true, and at most the last round is done again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fl_client import memory, sealed
from fl_client.config import ConfigError
from fl_server import journal, record
from fl_server.journal import State
from strategies import adapter as algebra

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def state(number):
    draw = np.random.default_rng(number)
    held = {"l.lora_A.weight": draw.normal(size=(2, 3)).astype(np.float32)}
    return State(number, {"as": held}, {"as": {}}, {"as": {}}, {"as": {"norms": np.ones(1)}})


def same(one, other):
    return (
        one.round == other.round
        and one.adapter.keys() == other.adapter.keys()
        and all(
            algebra.sha256(one.adapter[g]) == algebra.sha256(other.adapter[g]) for g in one.adapter
        )
    )


def flip(path, at, bit):
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_round_is_committed_also_where_half_of_one_that_goes_is_gone(kind, tmp_path):
    for number in (1, 2):
        journal.commit(tmp_path, state(number), set())
    (tmp_path / f"round-00001.{kind}").unlink()
    journal.commit(tmp_path, state(3), set())
    assert same(journal.recall(tmp_path), state(3))
    assert not list(tmp_path.glob("round-00001.json"))


where = st.tuples(st.integers(0, 10**6), st.integers(0, 7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("run")
    for number in (1, 2):
        journal.commit(made, state(number), set())
    return made


@quick
@given(name=st.sampled_from(["json", "safetensors"]), place=where)
def test_a_round_in_which_a_bit_turned_is_the_one_before(folder, name, place):
    path = folder / f"round-00002.{name}"
    before = path.read_bytes()
    flip(path, *place)
    try:
        assert same(journal.recall(folder), state(1))
        assert journal.recall(folder, 2) is None
    finally:
        path.write_bytes(before)
    assert same(journal.recall(folder), state(2))


@quick
@given(first=st.booleans(), place=where)
@example(first=True, place=(-1, 0))
@example(first=False, place=(-1, 0))
def test_a_line_in_which_a_bit_turned_is_read_from_the_copy(tmp_path_factory, first, place):
    at = tmp_path_factory.mktemp("record")
    lines = [{"round": n, "silos": {"a": {"up": 7 * n, "loss": 0.5}}} for n in range(4)]
    for line in lines:
        record.append(at, line)
    flip(at / (record.FILE if first else record.COPY), *place)
    assert record.lines(at) == lines
    record.rewind(at, 3)
    assert record.lines(at) == lines


def test_lines_that_are_damaged_twice_are_refused_in_a_sentence(tmp_path):
    for number in range(3):
        record.append(tmp_path, {"round": number, "silos": {}})
    for name in (record.FILE, record.COPY):
        flip(tmp_path / name, 5, 1)
    with pytest.raises(ConfigError, match="is damaged, and so is"):
        record.lines(tmp_path)


@quick
@given(place=where)
def test_a_memory_in_which_a_bit_turned_is_the_one_before_without_what_the_hub_knows(
    tmp_path_factory, place
):
    home = tmp_path_factory.mktemp("silo")
    for number in (1, 2):
        held = {"residual": np.full(3, number, np.float32), "private/x": np.full(2, number)}
        memory.keep(home, number, held, 0)
    whole = sealed.open_(memory.path(home, 2).read_bytes())
    flip(memory.path(home, 2), *place)
    found = memory.agreed(home, 3, lost=0)
    if set(found) == set(whole):  # padding of the header, which holds nothing
        assert all(np.array_equal(found[name], whole[name]) for name in whole)
    else:
        assert set(found) == {"private/x"} and found["private/x"].tolist() == [1, 1]
