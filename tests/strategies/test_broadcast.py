"""The encoded broadcast: what silos decode, what is refused, and that the hub's own numbers stay whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import broadcast
from strategies.adapter import layout
from strategies.codecs.bfloat16 import bfloat16
from strategies.codecs.codec import chain
from strategies.codecs.float16 import float16
from strategies.codecs.float32 import float32
from strategies.codecs.int4 import int4
from strategies.codecs.int8 import int8
from strategies.codecs.qsgd import qsgd

A, B, ROWS = "x.lora_A.weight", "x.lora_B.weight", "e.trainable_tokens_delta"
NARROW = {"bfloat16": (bfloat16(), 2**-8), "float16": (float16(), 2**-10), "int8": (int8(), 2**-6)}
LOTS = {"int4": (int4(), 0.15), "qsgd": (qsgd(8), 0.05)}  # error against the largest of a block
shapes = st.fixed_dictionaries(
    {A: st.tuples(st.integers(1, 5), st.integers(1, 90)), ROWS: st.just((3, 7))}
)


def drawn(shapes, seed=0):
    random = np.random.default_rng(seed)
    return {n: random.normal(0, 0.1, s).astype(np.float32) for n, s in shapes.items()}


@pytest.mark.parametrize("name", [*NARROW, *LOTS])
@given(shapes=shapes, seed=st.integers(0, 99))
def test_silos_decode_what_the_hub_holds_but_for_the_rounding(name, shapes, seed):
    codec, error = (NARROW | LOTS)[name]
    adapter, links = drawn(shapes, seed), chain([codec])
    wire = broadcast.encode(adapter, links, 7, 3)
    decoded = broadcast.decode(wire, layout(adapter), links, 7, 3)
    assert layout(decoded) == layout(adapter)
    for tensor, x in adapter.items():
        assert decoded[tensor].dtype == np.float32
        assert np.abs(decoded[tensor] - x).max() <= error * np.abs(x).max()


@pytest.mark.parametrize("links", [[], [float32()]])
def test_float32_travels_as_the_tensors_themselves(links):
    adapter = drawn({A: (2, 3), B: (3, 2)})
    assert broadcast.encode(adapter, chain(links), 7, 1) is adapter
    assert broadcast.decode(adapter, layout(adapter), chain(links), 7, 1) is adapter


def test_every_silo_decodes_the_same_lots():
    adapter, links = drawn({A: (4, 64)}), chain([qsgd(4)])
    first, again = (broadcast.encode(adapter, links, 7, 2) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    other = broadcast.encode(adapter, links, 7, 3)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("spoil", ["missing", "strange", "shape", "part"])
def test_a_wire_that_the_codec_cannot_have_made_is_refused(spoil):
    adapter, links = drawn({A: (4, 64), B: (5, 2)}), chain([int8()])
    expected = layout(adapter)
    wire = broadcast.encode(adapter, links, 7, 2)
    if spoil == "missing":
        wire = {name: x for name, x in wire.items() if not name.endswith(B)}
    if spoil == "strange":
        wire["values/y.lora_A.weight"] = wire[f"values/{A}"]
    if spoil == "shape":
        expected[A] = (4, 63)
    if spoil == "part":
        wire[f"1.scale/{A}"] = wire[f"0.scale/{A}"]
    with pytest.raises(ValueError):
        broadcast.decode(wire, expected, links, 7, 2)
