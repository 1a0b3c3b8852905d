"""A day's bytes: what was admitted is not held against the day again, and what left is counted, no more and no less."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime

import pytest

from fl_client import audit, posted, silo
from fl_client.gateway import egress, sending, trip, upload
from fl_client.gateway import parcels as trips
from fl_client.gateway.link import Record
from fl_client.gateway.trip import Trip
from fl_client.hours import Hours
from fl_client.parcels import Parcel

from .desk import RUN, kept, push, reply_naming, until

DAY = "max_bytes_per_day = 17179869184"


def of_a_day(clinic, size):
    clinic.allow(DAY, f"max_bytes_per_day = {int(size)}")


def whole(clinic, reply):
    """Push a reply until the update that it names is whole at the hub; return the statuses of that on the way."""
    seen, ends = [], time.monotonic() + 30
    while not seen or seen[-1] == 503:
        assert time.monotonic() < ends
        seen.append(push(clinic, reply)["parcel"])
    return seen


def test_an_update_that_was_sent_ahead_is_not_held_against_the_day_again(
    hub, desk, clinic, write, asked
):
    parcel, content = kept(clinic)
    of_a_day(clinic, 1.5 * len(content))
    asked(clinic)
    posted.say(clinic.folder, parcel)
    until(lambda: desk.held == content)
    assert sum(e.bytes for e in clinic.record()) + len(content) > 1.5 * len(content)
    assert set(push(clinic, write(reply_naming(parcel), group="3")).values()) == {200}
    assert not hub.codes() and not hub.told()


def test_an_update_that_takes_longer_than_a_supernode_waits_is_not_held_against_the_day_again(
    hub, desk, clinic, write, monkeypatch
):
    monkeypatch.setattr(trips, "WAIT_S", 0.3)
    parcel, content = kept(clinic)
    of_a_day(clinic, 1.5 * len(content))
    desk.takes_s = 1.5
    seen = whole(clinic, write(reply_naming(parcel)))
    assert seen[0] == 503 and seen[-1] == 200
    assert desk.held == content


@pytest.fixture
def at_night(clinic, monkeypatch):
    """Let updates leave at night only, and give what ends a night after so many looks at the clock, then begins one."""
    clinic.stop()
    own = silo.read(clinic.folder)
    silo.write_settings(clinic.folder, own.model_copy(update={"update_hours": "22:00-06:00"}))
    clinic.start()
    monkeypatch.setattr(upload, "LOOK_S", 0.05)
    monkeypatch.setattr(trips, "WAIT_S", 0.3)
    night, morning = datetime(2026, 11, 30, 5), datetime(2026, 11, 30, 6)

    def lasts(looks):
        left = [night] * looks
        monkeypatch.setattr(upload, "_now", lambda: left.pop() if left else morning)

    return lasts


def gone(folder):
    """Return the bytes of updates in a silo's record."""
    return [e.bytes for e in audit.read(folder) if e.kind == trip.PATH]


def test_a_cut_counts_what_left_before_it_and_not_what_was_left(hub, desk, clinic, write, at_night):
    parcel, content = kept(clinic)
    of_a_day(clinic, len(content) + 20_000)
    reply = write(reply_naming(parcel))
    for _ in range(2):
        at_night(4)
        assert push(clinic, reply)["parcel"] == 503
    assert 0 < len(desk.held) < len(content)
    at_night(1000)
    assert whole(clinic, reply)[-1] == 200
    assert desk.held == content
    assert len([each for each in desk.asked if each[0] == "POST"]) == 3  # cut twice
    assert sum(gone(clinic.folder)) == len(content)
    assert set(push(clinic, write(reply_naming(parcel), group="2")).values()) == {200}


def test_an_update_that_has_begun_to_leave_goes_on_after_a_restart(
    hub, desk, clinic, write, at_night
):
    parcel, content = kept(clinic)
    of_a_day(clinic, len(content) + 20_000)
    reply = write(reply_naming(parcel))
    at_night(9)
    assert push(clinic, reply)["parcel"] == 503
    clinic.stop()
    assert 1_500_000 < sum(gone(clinic.folder)) < len(content)  # the day has no room for all of it
    at_night(1000)
    clinic.start()
    assert whole(clinic, reply)[-1] == 200
    assert desk.held == content and not hub.codes()


def most(size):
    return egress.Egress(
        kinds=(), metrics=(), facts=(), max_bytes_per_round=1000, max_bytes_per_day=size
    )


def test_what_is_on_its_way_keeps_its_room_in_the_day(tmp_path):
    meter, parcel = egress.Meter(tmp_path), Parcel("a" * 64, 60)
    assert meter.fits("s", RUN, parcel.sha256, 60, most(100))
    with meter.on_its_way(parcel):
        assert not meter.fits("t", RUN, "b", 60, most(100))
        assert meter.fits("t", RUN, "c", 40, most(100))
    assert meter.fits("t", RUN, "b", 60, most(100))


def test_an_update_of_which_nothing_left_is_held_against_the_day(tmp_path):
    meter, parcel = egress.Meter(tmp_path), Parcel("a" * 64, 60)
    with meter.on_its_way(parcel):
        for size in (60, -60):  # the line broke before a byte was taken
            meter.count(size, parcel.sha256)
    meter.count(50)
    assert not meter.fits("s", RUN, parcel.sha256, 60, most(100))
    with meter.on_its_way(parcel):
        meter.count(1, parcel.sha256)
    assert meter.fits("s", RUN, parcel.sha256, 60, most(100))


def test_another_size_under_the_same_name_is_held_against_the_day(tmp_path):
    meter = egress.Meter(tmp_path)
    assert meter.fits("s", RUN, "a", 10, most(100))
    meter.count(60)
    assert meter.fits("s", RUN, "a", 10, most(60))
    assert not meter.fits("s", RUN, "a", 50, most(100))


async def tried(tmp_path, taken):
    """Send so many pieces of 2.8 MB; return what the day holds meanwhile and then, the record's sum, and its room."""
    meter, content = egress.Meter(tmp_path), bytes(2_800_000)
    parcel = Parcel("a" * 64, len(content))
    way = Trip(RUN, parcel, "small", "1", tmp_path, hours=Hours())
    way.file.write_bytes(content)
    with meter.on_its_way(parcel), way.file.open("rb") as stream:
        record = Record(tmp_path, meter)
        now = sending.Sending(record, way, parcel.bytes, datetime.now)
        record.write(now.entry())
        pieces = now.pieces(stream)
        for _ in range(taken + 1):  # who asks for a piece has taken the one before
            await anext(pieces)
        await pieces.aclose()
        during = meter.sent_today
        now.end()
        rest = meter.sent_today + now.left
        room = meter.today(0, most(rest)), meter.today(1, most(rest))
    return during, meter.sent_today, sum(gone(tmp_path)), room


@pytest.mark.parametrize("taken", [0, 1, 5, 10])
def test_the_record_and_the_day_hold_what_was_taken(tmp_path, taken):
    during, after, record, room = asyncio.run(tried(tmp_path, taken))
    assert during == 2_800_000  # all of it may leave as long as the line is open
    assert after == record == taken * sending.PIECE
    assert room == (True, False)  # and what is left keeps its room
    assert egress.Meter(tmp_path).sent_today == record


@pytest.fixture
def trying(tmp_path):
    """Return a try to send a hundred bytes, their meter and their record."""
    meter, parcel = egress.Meter(tmp_path), Parcel("a" * 64, 100)
    record = Record(tmp_path, meter)
    way = Trip(RUN, parcel, "small", "1", tmp_path)
    way.file.write_bytes(bytes(100))
    return sending.Sending(record, way, 100, datetime.now), meter, record


async def begun(now):
    """Ask for the first piece, which is not taken."""
    with now._trip.file.open("rb") as stream:
        pieces = now.pieces(stream)
        await anext(pieces)
        await pieces.aclose()


def test_what_a_try_of_yesterday_left_over_is_not_taken_from_today(trying, monkeypatch):
    now, meter, record = trying
    first = now.entry()
    record.write(first)
    asyncio.run(begun(now))
    monkeypatch.setattr(audit, "parcel", lambda *of: first._replace(time="2126-01-01", bytes=-100))
    monkeypatch.setattr(egress, "_today", lambda: "2126-01-01")
    now.end()
    assert meter.sent_today == 100 and meter.day == first.time[:10]  # of yesterday
    meter.due(now._trip.parcel.sha256, 0)
    assert meter.today(100, most(100)) and not meter.today(101, most(100))


def test_what_was_never_in_the_record_is_not_taken_from_it(trying, tmp_path):
    now, meter, _ = trying
    now.entry()  # the disk did not take it, so nothing was asked for
    now.end()
    assert meter.sent_today == 0 and not gone(tmp_path)
