"""What holds for every chain under error feedback (F19): nothing is lost, only sent later."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.codecs.codec import Key, chain

ROUNDS, SIZE = 50, 700


def key(number):
    return Key(7, number, "clinic")


def updates():
    draw = np.random.default_rng(3)
    return [
        draw.normal(0, 10.0 ** draw.uniform(-3, 1), SIZE).astype(np.float32) for _ in range(ROUNDS)
    ]


def test_all_that_was_sent_plus_the_last_residual_is_all_that_was_given(links):
    made = chain([link() for link in links])
    memory = made.init(SIZE)
    total, given, largest = np.zeros(SIZE), np.zeros(SIZE), 0.0
    for number, x in enumerate(updates()):
        largest = max(largest, float(np.max(np.abs(memory) + np.abs(x))))
        wire, memory = made.encode(x, memory, key(number))
        total += made.decode(wire, SIZE, key(number))
        given += x
    # float32 rounds twice a round, each time by half a unit in the last place
    np.testing.assert_allclose(total + memory, given, rtol=0, atol=ROUNDS * 2**-23 * largest)
    assert np.linalg.norm(total) > 0.5 * np.linalg.norm(given)


def test_what_one_round_leaves_out_a_later_round_sends(links):
    made = chain([link() for link in links])
    x = updates()[0]
    total, memory = np.zeros(SIZE), made.init(SIZE)
    # of 700 coordinates chosen by lot the last comes late, and one that is rounded roughly has to come more often
    rough = any(link.biased and link.narrows for link in made.links)
    for number in range(800 if rough else 400):
        wire, memory = made.encode(x if number == 0 else np.zeros_like(x), memory, key(number))
        total += made.decode(wire, SIZE, key(number))
    np.testing.assert_allclose(total, x, rtol=1e-2, atol=float(np.abs(x).max()) * 1e-3)
    assert np.abs(memory).max() < np.abs(x).max() * 1e-3


def test_a_residual_that_overflows_is_refused_on_encoding(links):
    made = chain([link() for link in links])
    memory = np.full(SIZE, np.finfo(np.float32).max)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="NaN|infinity|number"):
        made.encode(memory, memory, key(1))


def test_encoding_leaves_the_memory_it_was_given_as_it_was(links):
    made = chain([link() for link in links])
    _, memory = made.encode(updates()[0], made.init(SIZE), key(1))
    before = memory.tobytes()
    made.encode(updates()[1], memory, key(2))
    assert memory.tobytes() == before


@pytest.mark.parametrize("name", ["1.junk", "1.gaps", "01.scale", "2.scale"])
def test_an_array_that_no_link_makes_is_refused(links, name):
    made = chain([link() for link in links])
    wire, _ = made.encode(updates()[0], made.init(SIZE), key(1))
    with pytest.raises(ValueError):  # which of several reasons comes first is open
        made.decode(wire | {name: wire["values"]}, SIZE, key(1))


def test_an_empty_chain_sends_float32_as_it_is():
    made, x = chain([]), updates()[0]
    wire, memory = made.encode(x, made.init(SIZE), key(1))
    assert made.decode(wire, SIZE, key(1)).tobytes() == x.tobytes()
    assert memory.size == 0
    assert set(wire) == {"values"}
