"""A silo with a short line sends what fits, the most of it, within what the study allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from fl_client import spec
from strategies import budget
from strategies.codecs.codec import Key

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
KEY = Key(7, 3, "clinic")
HEADER = 400  # bytes of the names, types and shapes of the arrays
SPECS = (
    "topk(0.4, least=0.01)",
    "topk(0.2, least=0.01) | int4()",
    "topk(1.0, least=0.001) | int8(least=4)",
    "ef21() | topk(0.3, least=0.02) | int8(least=4)",
    "topk(0.3) | int8(least=4)",
    "int8(least=4)",
)


def vector(size, seed=1):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def most(made, size, chosen):
    """Return the most bytes of a choice, as they are added up by hand."""
    total, count = 0, size
    for link, choice in zip(made.links, chosen, strict=True):
        used = link if choice is None else link.choices.link(choice)
        total += used.beside(count) + (8 if link.choices else 0)
        count, bits = used.kept(count), used.bits
    return total + -(-count * bits // 8)


def every(made, size):
    """Yield every choice that a study allows, with the share of numbers, the bits and the most bytes."""
    among = [link.choices.among(size) if link.choices else [None] for link in made.links]
    for chosen in np.ndindex(*map(len, among)):
        picked = [choices[at] for choices, at in zip(among, chosen, strict=True)]
        links = [
            link if c is None else link.choices.link(c)
            for link, c in zip(made.links, picked, strict=True)
        ]
        yield (*budget.shared(links, size), most(made, size, picked))


@quick
@given(st.sampled_from(SPECS), st.integers(1, 900), st.integers(1, 4000))
def test_the_densest_choice_that_fits_is_taken_and_then_the_one_with_most_bits(text, size, limit):
    made = spec.codec(text)
    fitting = [row[:2] for row in every(made, size) if row[2] <= limit]
    if not fitting:
        with pytest.raises(ValueError, match="the least that the study lets a silo send"):
            budget.fit(made, size, limit)
        return
    found = budget.fit(made, size, limit)
    assert (found.density, found.bits) == max(fitting)


@quick
@given(st.sampled_from(SPECS), st.integers(1, 3000), st.floats(0.02, 1.2), st.integers(0, 9))
def test_what_is_sent_is_never_more_than_the_budget_and_comes_back(text, size, share, seed):
    made = spec.codec(text)
    limit = int(share * budget.fit(made, size, 0).bytes)
    try:
        found = budget.fit(made, size, max(limit, 1))
    except ValueError:
        return
    # All that is large lies together or at one end: indices that are hard to tell.
    x = vector(size, seed) * np.float32(np.arange(size) > size * seed / 10)
    wire, memory = found.chain.encode(x, made.init(size), KEY)
    assert len(save(wire)) <= limit + HEADER
    assert sum(array.nbytes for array in wire.values()) <= found.bytes <= limit
    again = made.decode(wire, size, KEY)
    assert again.tobytes() == found.chain.decode(wire, size, KEY).tobytes()
    assert budget.shared(made.sent(wire, size), size) == (found.density, found.bits)
    if made.feedback and not made.tracks:
        np.testing.assert_allclose(again + memory, x, rtol=2**-21, atol=1e-6)


def test_without_a_limit_or_with_a_wide_one_the_study_s_own_codec_is_used():
    made, x = spec.codec("topk(0.05, least=0.01) | int8(least=4)"), vector(5000)
    wire, _ = made.encode(x, made.init(5000), KEY)
    for limit in (0, 10**6):
        found = budget.fit(made, 5000, limit)
        same, _ = found.chain.encode(x, made.init(5000), KEY)
        assert save(same) == save(wire)
        assert (found.density, found.bits) == (0.05, 8)


def test_a_choice_costs_nothing_where_the_study_gives_none():
    plain, free = spec.codec("topk(0.05) | int8()"), spec.codec("topk(0.05, least=0.05) | int8()")
    x = vector(5000)
    one, _ = plain.encode(x, plain.init(5000), KEY)
    other, _ = free.encode(x, free.init(5000), KEY)
    assert one.keys() == other.keys() - {"0.choice"}
    assert all(np.array_equal(array, other[name]) for name, array in one.items())


@pytest.mark.parametrize("choice", [0, 9, 251, 10**12, -1, 2**62])
def test_a_silo_may_not_send_more_or_less_than_the_study_allows(choice):
    made = spec.codec("topk(0.05, least=0.002)")
    wire, _ = made.encode(vector(5000), made.init(5000), KEY)
    for false in ([choice], [choice] * 2, [], choice):
        with pytest.raises(ValueError, match="the study allows 10 to 250|this codec makes"):
            made.decode(wire | {"0.choice": np.array(false, np.int64)}, 5000, KEY)


def test_what_a_small_budget_leaves_out_is_sent_in_later_rounds():
    made, x = spec.codec("topk(0.5, least=0.01) | int8(least=4)"), vector(4000)
    found = budget.fit(made, 4000, 900)
    assert found.density < 0.25
    memory, total = made.init(4000), np.zeros(4000)
    for number in range(120):
        key = Key(7, number, "clinic")
        wire, memory = found.chain.encode(x * (number == 0), memory, key)
        total += made.decode(wire, 4000, key)
    np.testing.assert_allclose(total, x, atol=1e-3)


@pytest.mark.parametrize(
    "text", ["topk(0.1, least=0.02)", "ef21() | topk(0.1)", "int8()", "float32()"]
)
def test_the_share_of_the_norm_that_stays_behind_is_that_of_what_the_hub_does_not_have(text):
    made = spec.codec(text)
    before = made.init(2000)
    for number in (1, 2, 3):
        x, key = vector(2000, number), Key(7, number, "clinic")
        wire, after = made.encode(x, before, key)
        sent = made.decode(wire, 2000, key)
        wanted = x - before if made.tracks else x + before if made.feedback else x
        share = np.linalg.norm(wanted - sent) / np.linalg.norm(wanted)
        assert budget.behind(made, x, before, after, sent) == pytest.approx(share, abs=1e-6)
        before = after


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("topk(0.05, least=0.1)", "least=0.1 must be from 0, for no choice, to density=0.05"),
        ("topk(0.05, least=-0.1)", "least=-0.1 must be from 0"),
        ("int8(least=5)", "least=5 must be 8 or 4"),
    ],
)
def test_what_a_study_allows_must_lie_below_what_it_sends(text, why):
    with pytest.raises(spec.SpecError, match=why):
        spec.codec(text)
