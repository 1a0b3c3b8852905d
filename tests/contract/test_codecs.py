"""What holds for every codec: vectors come back, bytes repeat, nothing false is decoded (F25)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies import gaps as gap_code
from strategies.codecs.codec import Key, chain

quick = settings(deadline=None, derandomize=True, max_examples=80, database=None)
SIZE = 300
KEY = Key(seed=7, round=3, silo="clinic")


def normal(size, scale=1.0):
    return (np.random.default_rng(size).normal(size=size) * scale).astype(np.float32)


VECTORS = {
    "one": normal(1),
    "two": normal(2),
    "under a block": normal(255),
    "a block": normal(256),
    "over a block": normal(257),
    "many": normal(1000),
    "zeros": np.zeros(SIZE, np.float32),
    "ones": np.ones(SIZE, np.float32),
    "one peak": np.eye(1, SIZE, 7, dtype=np.float32)[0],
    "ties": np.tile(np.float32([0.5, -0.5, 0.25]), 100),
    "small": normal(SIZE, 1e-3),
    "tiny": normal(SIZE, 1e-39),
    "large": np.clip(normal(SIZE, 2e4), -65000, 65000),
    "mixed": normal(SIZE) * np.float32(10) ** np.arange(SIZE, dtype=np.float32).clip(0, 3),
}
each_vector = pytest.mark.parametrize("x", VECTORS.values(), ids=VECTORS.keys())


def sent(codec, x):
    """Return the decoded vector, the residual and the wire of a first encoding."""
    made = chain([codec()])
    wire, memory = made.encode(x, made.init(x.size), KEY)
    return made.decode(wire, x.size, KEY), memory, wire


@each_vector
def test_dtype_and_shape_return(codec, x):
    decoded, _, _ = sent(codec, x)
    assert decoded.dtype == np.float32
    assert decoded.shape == x.shape


@each_vector
def test_what_is_sent_plus_the_residual_is_the_vector(codec, x):
    decoded, memory, _ = sent(codec, x)
    made = codec()
    residual = memory if made.biased else x - decoded
    assert residual.dtype == np.float32
    # one that rounds roughly may send more than there is, and float32 tells the rest of that
    size = np.maximum(np.abs(x), np.abs(decoded)) if made.biased else np.abs(x)
    error = np.abs(decoded.astype(np.float64) + residual - x)
    assert np.all(error <= 2**-22 * size.astype(np.float64) + 1e-45)


def test_only_a_codec_that_is_biased_or_tracks_remembers(codec):
    remembers = codec().biased or codec().tracks
    assert chain([codec()]).init(SIZE).size == (SIZE if remembers else 0)


@each_vector
def test_what_is_sent_is_never_worse_than_sending_nothing(codec, x):
    decoded, _, _ = sent(codec, x)
    wide = x.astype(np.float64)
    assert np.linalg.norm(wide - decoded) <= np.linalg.norm(wide)


@each_vector
def test_what_was_decoded_is_encoded_again_without_loss(codec, x):
    once, _, _ = sent(codec, x)
    twice, _, _ = sent(codec, once)
    np.testing.assert_allclose(twice, once, rtol=1e-6, atol=1e-45)


@each_vector
def test_the_same_vector_gives_the_same_bytes_and_stays_as_it_was(codec, x):
    before = x.tobytes()
    _, _, first = sent(codec, x)
    _, _, second = sent(codec, x.copy())
    assert x.tobytes() == before
    assert {k: (a.dtype, a.tobytes()) for k, a in first.items()} == {
        k: (a.dtype, a.tobytes()) for k, a in second.items()
    }


def test_zeros_come_back_as_zeros(codec):
    decoded, memory, _ = sent(codec, np.zeros(SIZE, np.float32))
    assert not decoded.any()
    assert not memory.any()


@each_vector
def test_a_zero_beside_other_numbers_comes_back_as_one_where_the_codec_says_so(codec, x):
    x = with_zeros(x)
    decoded, _, _ = sent(codec, x)
    assert not codec().keeps_zeros or not decoded[x == 0].any()


def test_a_codec_that_does_not_say_so_makes_numbers_of_zeros(codec):
    x = with_zeros(VECTORS["many"])
    decoded, _, _ = sent(codec, x)
    assert codec().keeps_zeros or decoded[x == 0].any()


def with_zeros(x):
    """Return a vector with three of five numbers at zero."""
    return np.where(np.arange(x.size) % 5 < 3, 0, x).astype(np.float32)


def test_the_wire_is_never_longer_than_float32_and_shorter_where_a_codec_narrows(codec):
    _, _, wire = sent(codec, normal(1000))
    most = 3 * 1000 if codec().narrows else 4 * 1000
    assert sum(array.nbytes for array in wire.values()) <= most


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_on_encoding(codec, bad):
    made, x = chain([codec()]), normal(SIZE)
    x[17] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        made.encode(x, made.init(SIZE), KEY)


@pytest.mark.parametrize("peak", [65504.0, 65505.0, 1e30, 3.4e38, float(np.finfo(np.float32).max)])
def test_a_huge_number_comes_back_or_is_refused_on_encoding(codec, peak):
    made, x = chain([codec()]), np.float32([peak, -peak, 1.0])
    try:
        wire, _ = made.encode(x, made.init(3), KEY)
    except ValueError as refusal:
        assert "number" in str(refusal)  # a codec may refuse, but must say why
    else:
        assert np.isfinite(made.decode(wire, 3, KEY)).all()


def false_wires(wire):
    """Yield a name and a wire that differs from a true one in one thing."""
    for key, array in wire.items():
        rest = {k: a for k, a in wire.items() if k != key}
        yield f"no {key}", rest
        yield f"short {key}", rest | {key: array[:-1]}
        yield f"long {key}", rest | {key: np.append(array, array[-1:])}
        yield f"empty {key}", rest | {key: array[:0]}
        yield f"scalar {key}", rest | {key: np.array(array[0])}
        yield f"matrix {key}", rest | {key: array[None]}
        for dtype in (np.float64, np.int64, np.complex64, np.bool_):
            yield f"{dtype.__name__} {key}", rest | {key: array.astype(dtype)}
        if array.dtype.kind == "f":
            for bad in (np.nan, np.inf, -np.inf):
                broken = array.copy()
                broken[0] = bad
                yield f"{bad} {key}", rest | {key: broken}
    for extra in ("junk", "", "0.", ".", "0.junk", "0.values", "1.gaps", "-1.gaps", "00.gaps"):
        yield f"extra {extra!r}", wire | {extra: wire["values"]}
    for name in {"0.gaps", "0.index", "0.scale"} - wire.keys():
        yield f"extra {name!r}", wire | {name: np.arange(3, dtype=np.uint32)}


def false_gaps(wire):
    """Yield the same for indices: their code as it would be for other indices, or for none."""
    gaps = wire["0.gaps"]
    for what, false in {
        "all zero": np.zeros_like(gaps),
        "all ones": np.full_like(gaps, 255),
        "one index less": gap_code.encode(np.arange(14) * 7, SIZE),
        "one index more": gap_code.encode(np.arange(16) * 7, SIZE),
        "an index beyond": gap_code.encode(np.arange(15) * 7 + SIZE - 98, SIZE),
    }.items():
        yield what, wire | {"0.gaps": false}
    yield "alias", wire | {"00.gaps": gaps}


def test_a_wire_that_encoding_cannot_have_made_is_refused(codec):
    made = chain([codec()])
    wire, _ = made.encode(normal(SIZE), made.init(SIZE), KEY)
    passed = []
    others = false_gaps(wire) if "0.gaps" in wire else []
    for what, false in [*false_wires(wire), *others]:
        try:
            made.decode(false, SIZE, KEY)
        except ValueError as refusal:
            assert str(refusal), what  # any other exception fails the test
        else:
            passed.append(what)
    assert not passed


def decoded_or_refused(made, wire, size):
    """Decode; anything but a finite vector of this size or a ``ValueError`` fails."""
    try:
        decoded = made.decode(wire, size, KEY)
    except ValueError:
        return
    assert decoded.dtype == np.float32
    assert decoded.shape == (size,)
    assert np.isfinite(decoded).all()


@quick
@given(st.data())
def test_any_bytes_give_a_finite_vector_or_a_refusal(codec, data):
    made, size = chain([codec()]), data.draw(st.integers(1, 40))
    wire, _ = made.encode(normal(size), made.init(size), KEY)
    key = data.draw(st.sampled_from(sorted(wire)))
    raw = data.draw(st.binary(min_size=wire[key].nbytes, max_size=wire[key].nbytes))
    decoded_or_refused(made, wire | {key: np.frombuffer(raw, wire[key].dtype)}, size)


ANY_ARRAY = hnp.arrays(
    hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=6)
)


@quick
@given(st.data())
def test_any_arrays_give_a_finite_vector_or_a_refusal(codec, data):
    made, size = chain([codec()]), data.draw(st.integers(0, 8))
    wire, _ = made.encode(normal(size), made.init(size), KEY)
    keys = st.sampled_from([*sorted(wire), "0.gaps", "0.scale", "1.gaps", "x"])
    decoded_or_refused(made, wire | data.draw(st.dictionaries(keys, ANY_ARRAY, max_size=3)), size)
