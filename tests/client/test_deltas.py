"""What changed between two parcels: it brings the very bytes of the second one, or it is refused."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import deltas, parcels
from fl_client.parcels import Delta, Offer, Parcel

quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)
SIZE = 100_000
OLD = {"x": np.random.default_rng(1).normal(0, 0.02, SIZE).astype(np.float32)}


def moved(share: float, step: float = 1e-3, seed: int = 2):
    """Return the adapter after a round in which a share of its numbers moved."""
    draw = np.random.default_rng(seed)
    steps = draw.normal(0, step, SIZE) * (draw.random(SIZE) < share)
    return {"x": (OLD["x"] + steps).astype(np.float32)}


def delta_of(old: bytes, new: bytes) -> bytes:
    return b"".join(deltas.made(old, new))


def slowly(old: bytes, delta: bytes, piece: int) -> bytes:
    """Return what a delta makes of ``old``, word by word as the module's first lines say it."""
    said, at, found = zlib.decompress(delta), 0, bytearray()
    for begin in range(0, len(old), piece):
        part = old[begin : begin + piece]
        count = -(-len(part) // 4)
        bits = said[at : at + -(-count // 8)]
        at += len(bits)
        changed = [n for n in range(count) if bits[n // 8] >> (7 - n % 8) & 1]
        planes = said[at : at + 4 * len(changed)]
        at += len(planes)
        words = bytearray(part + bytes(4 * count - len(part)))
        for place, n in enumerate(changed):
            for byte in range(4):
                words[4 * n + byte] ^= planes[byte * len(changed) + place]
        found += words[: len(part)]
    return bytes(found)


def pairs():
    """Files of one length: the second drawn anew, or the first with some bytes changed."""

    def second(old: bytes):
        some = st.lists(st.tuples(st.integers(0, max(len(old) - 1, 0)), st.integers(0, 255)))
        anew = st.binary(min_size=len(old), max_size=len(old))
        return st.tuples(st.just(old), st.one_of(anew, some.map(lambda at: changed(old, at))))

    def changed(old: bytes, places):
        new = bytearray(old)
        for at, byte in places if old else ():
            new[at] = byte
        return bytes(new)

    return st.binary(max_size=200).flatmap(second)


@quick
@given(pairs(), st.sampled_from([4, 32, 36, 1 << 20]))
def test_a_delta_leads_from_any_bytes_to_any_others_of_their_number(pair, piece):
    old, new = pair
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deltas, "PIECE", piece)
        delta = delta_of(old, new)
        assert b"".join(deltas.applied(old, delta)) == new
    assert slowly(old, delta, piece) == new


@pytest.mark.parametrize(
    ("share", "most"), [(0.0, 0.001), (0.01, 0.015), (0.05, 0.055), (1.0, 0.8)]
)
def test_the_fewer_numbers_changed_the_less_a_delta_says(share, most):
    old, new = OLD["x"].tobytes(), moved(share)["x"].tobytes()
    delta = delta_of(old, new)
    assert b"".join(deltas.applied(old, delta)) == new
    assert len(delta) < most * len(new)


def test_bytes_of_another_number_have_no_delta():
    with pytest.raises(ValueError, match="leads from 3 bytes"):
        delta_of(b"old", b"newer")


@quick
@given(st.binary(max_size=100), st.data())
def test_what_is_no_delta_is_refused_or_leads_to_as_many_bytes_as_it_starts_from(rubbish, data):
    old = OLD["x"].tobytes()[:1000]
    delta = delta_of(old, old[::-1])
    at = data.draw(st.integers(0, len(delta)))
    for said in (rubbish, delta[:at] + rubbish, delta[:at] + rubbish + delta[at:]):
        try:
            found = b"".join(deltas.applied(old, said))
        except ValueError:
            continue
        assert len(found) == len(old)


@pytest.mark.parametrize("damage", ["cut", "longer", "more inside", "nothing", "of a longer file"])
def test_a_delta_that_ends_elsewhere_than_its_start_is_refused(damage):
    old, new = OLD["x"].tobytes(), moved(0.01)["x"].tobytes()
    delta = delta_of(old, new)
    said = {
        "cut": delta[:-1],
        "longer": delta + b"x",
        "more inside": zlib.compress(zlib.decompress(delta) + b"x"),
        "nothing": b"",
        "of a longer file": delta_of(old + old, new + new),
    }[damage]
    with pytest.raises(ValueError, match="delta"):
        b"".join(deltas.applied(old, said))


def test_a_bomb_is_refused_before_it_goes_off(monkeypatch):
    """What inflates to 32 MB makes no more than a piece, and of its input only the beginning is read."""
    bomb, inflated = zlib.compress(bytes(32 << 20)), []
    more = deltas._Inflated._more
    monkeypatch.setattr(
        deltas._Inflated, "_more", lambda self, most: inflated.append(most) or more(self, most)
    )
    with pytest.raises(ValueError, match="more than it starts from"):
        for piece in deltas.applied(bytes(4000), bomb):
            assert len(piece) == 4000
    assert sum(inflated) < 1000


def files(folder, old, new):
    return parcels.keep(folder, old), parcels.keep(folder, new)


def test_a_parcel_is_made_from_the_one_before_it_and_what_changed(tmp_path):
    hub, silo = tmp_path / "hub", tmp_path / "silo"
    start, parcel = files(hub, OLD, moved(0.02))
    delta = deltas.between(hub, start, parcel)
    assert delta.start == start and delta.parcel.bytes < parcel.bytes / 20
    parcels.keep(silo, OLD)
    parcels.path(silo, delta.parcel).write_bytes(parcels.path(hub, delta.parcel).read_bytes())
    deltas.rebuild(silo, parcel, delta)
    assert parcels.path(silo, parcel).read_bytes() == parcels.path(hub, parcel).read_bytes()


@pytest.mark.parametrize("change", ["everything", "length", "little", "lost", "cut", "empty"])
def test_where_a_delta_would_not_pay_there_is_none(tmp_path, change):
    old, new = OLD, moved(0.01)
    if change == "everything":
        new = {"x": np.random.default_rng(3).normal(0, 3, SIZE).astype(np.float32)}
    if change == "length":
        new = {"x": new["x"][:-1]}
    if change == "little":
        old, new = {"x": old["x"][:100]}, {"x": new["x"][:100]}
    start, parcel = files(tmp_path, old, new)
    if change == "lost":
        parcels.path(tmp_path, start).unlink()
    if change in ("cut", "empty"):
        parcels.path(tmp_path, start).write_bytes(b"x" if change == "cut" else b"")
    there = set(tmp_path.iterdir())
    assert deltas.between(tmp_path, start, parcel) is None
    assert set(tmp_path.iterdir()) == there


def test_of_a_large_parcel_in_which_all_changed_only_a_sample_is_tried(monkeypatch):
    monkeypatch.setattr(deltas, "PROBE", 4096)
    old, new = np.random.default_rng(4).bytes(4 << 20), np.random.default_rng(5).bytes(4 << 20)
    tried, make = [], deltas.made
    monkeypatch.setattr(deltas, "made", lambda a, b: tried.append(len(a)) or make(a, b))
    assert not deltas.pays(old, new)
    assert tried == [deltas.PROBES * 4096]
    assert deltas.pays(old, old)


def test_a_delta_that_turns_out_too_long_after_its_sample_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(deltas, "pays", lambda old, new: True)
    anew = {"x": np.random.default_rng(3).normal(0, 3, SIZE).astype(np.float32)}
    start, parcel = files(tmp_path, OLD, anew)
    assert deltas.between(tmp_path, start, parcel) is None
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["start", "delta", "another"])
def test_a_start_or_delta_that_is_not_what_was_named_leaves_no_parcel(tmp_path, damage):
    start, parcel = files(tmp_path, OLD, moved(0.02))
    delta = deltas.between(tmp_path, start, parcel)
    parcels.path(tmp_path, parcel).unlink()
    if damage == "another":
        parcel = Parcel(hashlib.sha256(b"another").hexdigest(), parcel.bytes)
    else:
        file = parcels.path(tmp_path, start if damage == "start" else delta.parcel)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(ValueError, match="not the parcel|damaged|ends early"):
        deltas.rebuild(tmp_path, parcel, delta)
    assert {file.stem for file in tmp_path.iterdir()} == {start.sha256, delta.parcel.sha256}


ONE, TWO, THREE = (Parcel(digit * 64, size) for digit, size in (("1", 9), ("2", 3), ("3", 9)))


@pytest.mark.parametrize("offer", [Offer(ONE), Offer(ONE, Delta(TWO, THREE))])
def test_an_offer_is_read_from_what_it_says(offer):
    assert parcels.offered(offer.said()) == offer


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"parcel": "../secret"},
        {"delta": str(TWO), "start": str(ONE)},
        {"parcel": str(ONE), "delta": str(TWO)},
        {"parcel": str(ONE), "delta": str(TWO), "start": "x"},
        {"parcel": str(ONE), "delta": str(TWO), "start": str(THREE), "more": str(ONE)},
    ],
)
def test_what_offers_no_parcel_is_refused(said):
    with pytest.raises(ValueError, match="parcel"):
        parcels.offered(said)
