"""A silo's own disk is not the line: files that are gone, and adapters for which there is no room."""

from __future__ import annotations

import logging
import os
import resource
import time

import pytest
from flwr.app import ConfigRecord, RecordDict

from fl_client import deltas, memory, parcels, room
from fl_client.gateway import download
from fl_client.gateway import parcels as trips
from fl_client.parcels import Offer, Parcel

from .desk import ARRAYS, kept, laid_out, pull, push, reply_naming, until


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr(trips, "WAIT_S", 1.0)


@pytest.mark.parametrize("damage", ["gone", "cut short"])
def test_an_update_that_goes_while_the_hub_is_asked_is_not_put_down_to_the_line(
    hub, desk, clinic, write, caplog, damage
):
    parcel, _ = kept(clinic)
    file = parcels.path(clinic.folder / parcels.OUTBOX, parcel)
    desk.looked = lambda: (
        file.unlink(missing_ok=True) if damage == "gone" else os.truncate(file, 1000)
    )
    with caplog.at_level(logging.INFO, "bhasha_fl.gateway"):
        assert push(clinic, write(reply_naming(parcel)))["parcel"] == 403
    assert [each[0] for each in desk.asked] == ["GET"]  # it was there when it was looked at first
    assert hub.codes() == ["parcel_missing"] and not hub.told()
    assert not [r for r in caplog.records if "the line broke" in r.message]


def named(write, parcel):
    objects = write(RecordDict({"parcel": ConfigRecord({"parcel": str(parcel)})})).objects
    (found,) = [each for each in objects.values() if str(parcel).encode() in each]
    return found


def errors(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


def test_an_adapter_larger_than_any_disk_is_not_fetched(hub, desk, clinic, write, caplog):
    content = named(write, Parcel("a" * 64, 10**15 - 1))
    assert pull(hub, clinic, content).object_content == content  # whose work will say so
    assert not desk.asked
    (said,) = errors(caplog)
    assert str(clinic.folder / parcels.INBOX) in said and "is not fetched" in said


def test_an_adapter_that_would_fill_the_disk_is_not_fetched_until_there_is_room(
    hub, desk, clinic, write, caplog, monkeypatch
):
    parcel, whole, content = laid_out(desk, write)
    file = parcels.path(clinic.folder / parcels.INBOX, parcel)
    file.parent.mkdir()
    memory.part(file).write_bytes(whole[:1000])
    spare = room.SPARE
    monkeypatch.setattr(room, "SPARE", room.free(clinic.folder))
    assert pull(hub, clinic, content).object_content == content
    assert not desk.asked and not file.exists()
    assert not memory.part(file).exists()  # a disk that is full needs it
    monkeypatch.setattr(room, "SPARE", spare)
    pull(hub, clinic, content)
    assert file.read_bytes() == whole


def test_what_has_room_leaves_the_reserve_free(tmp_path):
    free = room.free(tmp_path)
    assert free > room.SPARE
    assert room.fits(tmp_path, (free - room.SPARE) // 2)
    assert not room.fits(tmp_path, free)


@pytest.fixture
def narrow():
    """Let no file of this process grow over a megabyte; give what lifts that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_no_more_is_named_and_not_asked_again_and_again(
    hub, desk, clinic, write, caplog, narrow
):
    parcel, whole, content = laid_out(desk, write)
    file = parcels.path(clinic.folder / parcels.INBOX, parcel)
    with caplog.at_level(logging.INFO, "bhasha_fl.gateway"):
        assert pull(hub, clinic, content) == 503
        time.sleep(1)
    assert memory.part(file).stat().st_size == 1_000_000  # the disk took no more
    said = errors(caplog)
    named = f"an adapter cannot be kept on the disk of {file.parent}: "
    assert said and all(each.startswith(named) for each in said)
    assert not [r for r in caplog.records if "the line broke" in r.message]
    assert len(said) == len(desk.asked) <= 6  # ever longer pauses, from 0.05 s here
    narrow()
    until(lambda: pull(hub, clinic, content) != 503)
    assert file.read_bytes() == whole


def test_a_folder_that_cannot_be_made_is_named(hub, desk, clinic, write, caplog):
    (clinic.folder / parcels.INBOX).write_bytes(b"")
    parcel, _, content = laid_out(desk, write)
    assert pull(hub, clinic, content) == 503
    assert str(clinic.folder / parcels.INBOX) in errors(caplog)[0] and not desk.asked
    (clinic.folder / parcels.INBOX).unlink()
    until(lambda: pull(hub, clinic, content) != 503)


def test_a_delta_for_which_there_is_no_room_beside_its_adapter_is_not_fetched(
    hub, desk, clinic, write, tmp_path, monkeypatch
):
    place = tmp_path / "parcels"
    moved = ARRAYS["values"].copy()
    moved[::100] = -1
    start, parcel = (parcels.keep(place, {"values": each}) for each in (ARRAYS["values"], moved))
    offer = Offer(parcel, deltas.between(place, start, parcel))
    for each in (parcel, offer.delta.parcel):
        desk.laid_out[str(each)] = parcels.path(place, each).read_bytes()
    parcels.keep(clinic.folder / parcels.INBOX, ARRAYS)
    objects = write(RecordDict({"parcel": ConfigRecord({**offer.said()})})).objects
    (content,) = [each for each in objects.values() if str(parcel).encode() in each]
    free = 300 << 20
    monkeypatch.setattr(room, "free", lambda folder: free)
    monkeypatch.setattr(room, "SPARE", free - parcel.bytes)
    pull(hub, clinic, content)
    assert [each[2]["parcel"] for each in desk.asked] == [str(parcel)]


def test_what_broke_is_told_apart(tmp_path):
    with pytest.raises(download.Unwritable, match="No such file"), download._on_disk():
        (tmp_path / "none").read_bytes()
    with pytest.raises(ValueError, match="x"), download._on_disk():
        raise ValueError("x")
