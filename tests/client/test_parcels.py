"""Arrays as files named by their hash: what is read is what was kept, or it is refused."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client import memory, parcels, stock
from fl_client.parcels import Parcel

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(4, np.int8)}
YEAR_S = 365 * 86400
quick = settings(deadline=None, derandomize=True, max_examples=60, database=None)


def test_a_parcel_brings_back_the_very_arrays(tmp_path):
    parcel = parcels.keep(tmp_path / "outbox", ARRAYS)
    found = parcels.read(tmp_path / "outbox", parcel)
    assert found.keys() == ARRAYS.keys()
    assert all(found[n].dtype == x.dtype and np.array_equal(found[n], x) for n, x in ARRAYS.items())
    assert parcel.bytes == parcels.path(tmp_path / "outbox", parcel).stat().st_size


def test_the_same_arrays_are_the_same_parcel_and_are_written_once(tmp_path):
    first = parcels.keep(tmp_path, ARRAYS)
    inode = parcels.path(tmp_path, first).stat().st_ino
    assert parcels.keep(tmp_path, dict(reversed(ARRAYS.items()))) == first
    assert parcels.path(tmp_path, first).stat().st_ino == inode
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_is_full_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(stream, content):
        raise OSError("no space left")

    monkeypatch.setattr(memory, "write", full)
    with pytest.raises(OSError, match="no space"):
        parcels.keep(tmp_path, ARRAYS)
    assert not list(tmp_path.iterdir())


def test_a_damaged_parcel_is_written_anew(tmp_path):
    parcel = parcels.keep(tmp_path, ARRAYS)
    parcels.path(tmp_path, parcel).write_bytes(b"x" * parcel.bytes)
    assert parcels.keep(tmp_path, ARRAYS) == parcel
    parcels.read(tmp_path, parcel)


def test_a_parcel_that_the_disk_cannot_read_is_not_whole_and_is_written_anew(
    tmp_path, monkeypatch, caplog
):
    parcel = parcels.keep(tmp_path, ARRAYS)
    file = parcels.path(tmp_path, parcel)
    bad = file.stat().st_ino
    opened, refused = Path.open, []

    def sector(path, *mode, **more):
        if path == file and file.stat().st_ino == bad:
            refused.append(path)
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *mode, **more)

    monkeypatch.setattr(Path, "open", sector)
    assert not parcels.whole(file, parcel)
    assert f"{file} cannot be read: Input/output error" in caplog.text
    assert parcels.keep(tmp_path, ARRAYS) == parcel
    assert len(refused) == 2 and parcels.whole(file, parcel)


@quick
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_every_bit_that_flips_is_noticed(tmp_path_factory, at, bit):
    folder = tmp_path_factory.mktemp("parcels")
    parcel = parcels.keep(folder, ARRAYS)
    file = parcels.path(folder, parcel)
    content = bytearray(file.read_bytes())
    content[at % len(content)] ^= 1 << bit
    file.write_bytes(content)
    assert not parcels.whole(file, parcel)
    with pytest.raises(ValueError, match="damaged"):
        parcels.read(folder, parcel)


@pytest.mark.parametrize("size", [0, 7, -1])
def test_a_parcel_of_another_length_is_refused(tmp_path, size):
    parcel = parcels.keep(tmp_path, ARRAYS)
    file = parcels.path(tmp_path, parcel)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match="damaged"):
        parcels.read(tmp_path, parcel)


def test_a_parcel_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not there"):
        parcels.read(tmp_path, Parcel("0" * 64, 3))
    assert not parcels.whole(tmp_path / "none", Parcel("0" * 64, 3))


def test_a_file_that_holds_no_arrays_is_refused_though_its_hash_is_right(tmp_path):
    import hashlib

    content = b"\xff" * 100
    parcel = Parcel(hashlib.sha256(content).hexdigest(), len(content))
    parcels.path(tmp_path, parcel).write_bytes(content)
    with pytest.raises(ValueError, match="holds no arrays"):
        parcels.read(tmp_path, parcel)


def test_a_parcel_is_named_by_a_text_and_read_from_it():
    parcel = Parcel("0a" * 32, 1234)
    assert parcels.parse(str(parcel)) == parcel


@pytest.mark.parametrize(
    "text",
    ["", "0a:1", "0A" * 32 + ":1", "../" + "0a" * 31 + ":1", "0a" * 32, "0a" * 32 + ":-1",
     "0a" * 32 + ":1\n", "0a" * 32 + ":" + "9" * 16],
)  # fmt: skip
def test_what_names_no_parcel_is_refused(text):
    with pytest.raises(ValueError, match="names no parcel"):
        parcels.parse(text)


def test_the_newest_parcels_stay(tmp_path):
    made = [parcels.keep(tmp_path, {"x": np.full(3, n, np.float32)}) for n in range(6)]
    for number, parcel in enumerate(made):
        os.utime(parcels.path(tmp_path, parcel), (number, number))
    stock.prune(tmp_path, kept=2)
    assert [parcels.path(tmp_path, p).exists() for p in made] == [False] * 4 + [True] * 2


@pytest.fixture
def after_a_wrong_clock(tmp_path):
    """Return a folder's parcels of the time before a clock ran a year ahead, of that time, and of now."""
    made = [parcels.keep(tmp_path, {"x": np.full(3, n, np.float32)}) for n in range(3)]
    for parcel, at in zip(made, (-60, YEAR_S, 0), strict=True):
        file = parcels.path(tmp_path, parcel)
        os.utime(file, (file.stat().st_mtime + at,) * 2)
    return made


def test_after_a_clock_that_ran_ahead_was_set_right_what_it_dated_goes_first(
    after_a_wrong_clock, tmp_path
):
    before, ahead, now = (parcels.path(tmp_path, parcel) for parcel in after_a_wrong_clock)
    assert ahead.stat().st_mtime > time.time() + YEAR_S / 2
    stock.prune(tmp_path, 2)
    assert {*tmp_path.iterdir()} == {before, now}
    ahead.write_bytes(b"x")
    os.utime(ahead, (time.time() + YEAR_S,) * 2)
    stock.prune(tmp_path, 1)
    assert {*tmp_path.iterdir()} == {now}


@pytest.mark.parametrize("number", range(3))
def test_the_parcel_just_kept_stays_whatever_its_date(after_a_wrong_clock, number, tmp_path):
    assert len(list(tmp_path.iterdir())) == 3
    stock.prune(tmp_path, 1, after_a_wrong_clock[number])
    assert [*tmp_path.iterdir()] == [parcels.path(tmp_path, after_a_wrong_clock[number])]


def test_where_there_is_no_folder_nothing_is_pruned(tmp_path):
    stock.prune(tmp_path / "none", 0)
    assert not (tmp_path / "none").exists()


def test_what_nobody_touched_for_long_expires_and_so_does_a_beginning(tmp_path):
    old = parcels.path(tmp_path, parcels.keep(tmp_path, ARRAYS))
    part = old.with_name(old.name + ".part")
    part.write_bytes(b"begun")
    new = parcels.path(tmp_path, parcels.keep(tmp_path, {"x": np.zeros(3, np.float32)}))
    for file in (old, part):
        os.utime(file, (1, 1))
    assert stock.size(tmp_path) == sum(f.stat().st_size for f in (old, part, new))
    stock.expire(tmp_path, 3600)
    assert list(tmp_path.iterdir()) == [new]


def test_a_parcel_that_goes_while_a_folder_is_counted_is_no_error(tmp_path, monkeypatch):
    gone = parcels.path(tmp_path, parcels.keep(tmp_path, ARRAYS))
    kept = parcels.keep(tmp_path, {"x": np.zeros(3, np.float32)})
    found = sorted(tmp_path.glob("*"))
    monkeypatch.setattr(type(tmp_path), "glob", lambda self, pattern: iter(found))
    gone.unlink()  # by the hub, which settles a round while its gateway counts
    assert stock.size(tmp_path) == kept.bytes
    stock.expire(tmp_path, 3600)
    stock.prune(tmp_path, 1)
    assert parcels.path(tmp_path, kept).exists()


def test_a_parcel_can_be_read_before_it_is_durable_and_is_durable_in_the_end(tmp_path, monkeypatch):
    order, sync = [], memory.sync

    def synced(file):
        order.append("durable")
        sync(file)

    def ready(parcel):
        order.append(sorted(parcels.read(tmp_path, parcel)))

    monkeypatch.setattr(memory, "sync", synced)
    parcels.keep(tmp_path, ARRAYS, ready)
    assert order == [["a", "b"], "durable"]
    parcels.keep(tmp_path, ARRAYS, ready)
    assert order == [["a", "b"], "durable", ["a", "b"], "durable"]


@pytest.mark.parametrize(("room", "left"), [(-1, 1), (0, 1), (100, 1), (700, 3), (10_000, 4)])
def test_beyond_what_is_kept_as_many_stay_as_there_is_room_for(room, left, tmp_path):
    sizes = set()
    for number in range(4):
        parcel = parcels.keep(tmp_path, {"x": np.full(32, number, np.float32)})
        sizes.add(parcel.bytes)
        os.utime(parcels.path(tmp_path, parcel), (1000 + number,) * 2)
    assert len(sizes) == 1
    stock.prune(tmp_path, 1, room=room)
    assert len(list(tmp_path.glob("*.safetensors"))) == left
    assert parcels.path(tmp_path, parcel).exists()
