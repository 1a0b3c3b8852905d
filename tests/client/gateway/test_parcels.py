"""A silo's parcels: the update is whole at the hub before the reply that names it, an adapter before its message."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fl_client import audit, deltas, fleet, memory, parcels, posted, silo
from fl_client.gateway import parcels as trips
from fl_client.gateway import trip, upload
from fl_client.parcels import Offer, Parcel

from .desk import ARRAYS, RUN, kept, laid_out, pull, push, pushed, reply_naming, until


def test_an_update_is_whole_at_the_hub_before_the_reply_that_names_it(hub, desk, clinic, write):
    parcel, content = kept(clinic)
    statuses = push(clinic, write(reply_naming(parcel)))
    assert set(statuses.values()) == {200}
    assert desk.held == content
    assert any(str(parcel).encode() in each for each in pushed(hub))
    (first, *_) = desk.asked
    assert (first[0], first[2]) == ("GET", {"run": str(RUN), "parcel": str(parcel)})


def test_the_record_has_the_bytes_and_the_hash_of_what_left(desk, clinic, write):
    parcel, content = kept(clinic)
    push(clinic, write(reply_naming(parcel), group="3"))
    (entry,) = [e for e in audit.read(clinic.folder) if e.kind == trip.PATH and e.bytes]
    assert (entry.bytes, entry.sha256) == (len(content), parcel.sha256)
    assert (entry.study, entry.round) == ("small", "3")


def test_after_a_cut_only_what_is_missing_is_sent(desk, clinic, write):
    parcel, content = kept(clinic)
    desk.stop_after = 1_000_000
    assert set(push(clinic, write(reply_naming(parcel))).values()) == {200}
    assert desk.stop_after is None  # the cut happened
    assert desk.held == content
    sent = [each for each in desk.asked if each[0] == "POST"]
    assert [each[2]["at"] for each in sent] == ["0", "1000000"]
    assert int(sent[1][3]["Content-Length"]) == len(content) - 1_000_000


def test_an_update_that_the_hub_has_already_is_not_sent_again(desk, clinic, write):
    parcel, content = kept(clinic)
    desk.held = content
    assert set(push(clinic, write(reply_naming(parcel))).values()) == {200}
    assert {each[0] for each in desk.asked} == {"GET"}


def test_the_supernode_asks_again_while_an_update_is_on_its_way(
    hub, desk, clinic, write, monkeypatch
):
    monkeypatch.setattr(trips, "WAIT_S", 0.3)
    parcel, content = kept(clinic)
    desk.status = 503
    reply = write(reply_naming(parcel))
    assert push(clinic, reply)["parcel"] == 503
    assert not any(str(parcel).encode() in each for each in pushed(hub))
    desk.status = None
    until = time.monotonic() + 30
    while push(clinic, reply)["parcel"] != 200:
        assert time.monotonic() < until
    assert desk.held == content


def test_tries_are_close_together_while_the_line_is_away_and_ever_rarer_where_the_hub_refuses(
    monkeypatch,
):
    paused = []
    parcel = Parcel("a" * 64, 100)
    held = iter([None] * 9 + [0] * 6 + [100])

    async def sleep(seconds):
        paused.append(seconds)

    async def says(found):
        return found

    monkeypatch.setattr(upload, "_check", lambda trip: says(None))
    monkeypatch.setattr(upload, "_held", lambda line, trip: says(next(held)))
    monkeypatch.setattr(upload, "_rest", lambda line, trip, at: says(507))
    monkeypatch.setattr(trip.asyncio, "sleep", sleep)
    asyncio.run(upload.send(None, trip.Trip(7, parcel, "small", "1", Path())))
    assert paused == [1, 2, 3, 3, 3, 3, 3, 3, 3, 1, 2, 4, 8, 16, 30]


@pytest.fixture
def wall(monkeypatch):
    """Give the gateway a clock on the wall that a test sets, and little patience."""
    at = {"time": datetime(2026, 11, 30, 12)}
    monkeypatch.setattr(upload, "_now", lambda: at["time"])
    monkeypatch.setattr(upload, "LOOK_S", 0.05)
    monkeypatch.setattr(trips, "WAIT_S", 0.3)
    monkeypatch.setattr(trip, "PAUSE_S", 0.05)
    return at


def at_night(clinic):
    """Let updates leave at night only."""
    clinic.stop()
    own = silo.read(clinic.folder)
    silo.write_settings(clinic.folder, own.model_copy(update={"update_hours": "22:00-06:00"}))
    clinic.start()


def test_an_update_waits_for_its_hours_and_other_messages_do_not(hub, desk, clinic, write, wall):
    at_night(clinic)
    parcel, content = kept(clinic)
    reply = write(reply_naming(parcel))
    statuses = push(clinic, reply)
    assert statuses.pop("parcel") == 503 and set(statuses.values()) == {200}
    assert {each[0] for each in desk.asked} == {"GET"} and desk.held == b""
    wall["time"] = datetime(2026, 11, 30, 22)
    until = time.monotonic() + 30
    while push(clinic, reply)["parcel"] != 200:
        assert time.monotonic() < until
    assert desk.held == content


def test_an_update_that_is_not_done_when_its_hours_end_goes_on_in_the_next(
    hub, desk, clinic, write, wall, monkeypatch
):
    at_night(clinic)
    parcel, content = kept(clinic)
    wall["time"] = datetime(2026, 11, 30, 5, 59)
    pieces = []

    def over():
        pieces.append(wall["time"])
        return datetime(2026, 11, 30, 6) if len(pieces) > 4 else wall["time"]

    monkeypatch.setattr(upload, "_now", over)
    reply = write(reply_naming(parcel))
    assert push(clinic, reply)["parcel"] == 503
    assert 0 < len(desk.held) < len(content)
    monkeypatch.setattr(upload, "_now", lambda: datetime(2026, 11, 30, 23))
    until = time.monotonic() + 30
    while push(clinic, reply)["parcel"] != 200:
        assert time.monotonic() < until
    assert desk.held == content
    sent = [each for each in desk.asked if each[0] == "POST"]
    assert [each[2]["at"] for each in sent][0] == "0" and int(sent[-1][2]["at"]) > 0


@pytest.mark.parametrize("damage", ["gone", "other bytes", "no tensors"])
def test_an_update_that_is_not_what_its_reply_names_does_not_leave(
    hub, desk, clinic, write, damage
):
    parcel, content = kept(clinic)
    file = parcels.path(clinic.folder / parcels.OUTBOX, parcel)
    if damage == "gone":
        file.unlink()
    if damage == "other bytes":
        file.write_bytes(b"x" + content[1:])
    if damage == "no tensors":
        secret = b"text of this silo" * 100_000
        parcel = Parcel(hashlib.sha256(secret).hexdigest(), len(secret))
        parcels.path(clinic.folder / parcels.OUTBOX, parcel).write_bytes(secret)
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 403
    assert not desk.asked
    assert hub.codes() == ["parcel_missing"] and not hub.told()


def test_an_update_over_the_policys_bytes_does_not_leave(hub, desk, clinic, write):
    parcel, content = kept(clinic)
    clinic.allow("max_bytes_per_round = 1073741824", f"max_bytes_per_round = {len(content)}")
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 403
    assert not desk.asked
    assert hub.codes() == ["egress_too_large"] and not hub.told()


def test_a_run_that_is_over_needs_no_update_any_more(hub, desk, clinic, write):
    parcel, _ = kept(clinic)
    desk.status = 403
    hub.answers[fleet.PUSH_OBJECT] = lambda _: (403, b"")
    assert push(clinic, write(reply_naming(parcel)))["parcel"] == 403
    assert not hub.told()


def test_an_adapter_is_in_the_inbox_before_the_message_that_names_it(hub, desk, clinic, write):
    parcel, content, named = laid_out(desk, write)
    assert pull(hub, clinic, named).object_content == named
    assert parcels.path(clinic.folder / parcels.INBOX, parcel).read_bytes() == content
    assert pull(hub, clinic, named).object_content == named  # named again, to evaluate
    assert [each[1] for each in desk.asked] == [trip.CONTENT]


def test_an_adapter_goes_on_where_the_inbox_stands(hub, desk, clinic, write):
    parcel, content, named = laid_out(desk, write)
    file = parcels.path(clinic.folder / parcels.INBOX, parcel)
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(content[:1_000_000])
    pull(hub, clinic, named)
    assert file.read_bytes() == content
    assert [each[3].get("Range") for each in desk.asked] == ["bytes=1000000-"]


def test_an_adapter_that_arrives_damaged_is_fetched_anew(hub, desk, clinic, write):
    parcel, content, named = laid_out(desk, write)
    file = parcels.path(clinic.folder / parcels.INBOX, parcel)
    file.parent.mkdir()
    file.with_name(file.name + ".part").write_bytes(b"y" * 1_000_000)
    pull(hub, clinic, named)
    assert file.read_bytes() == content
    assert len(desk.asked) == 2


@pytest.mark.parametrize("sound", [True, False])
def test_an_adapter_that_had_all_come_when_the_gateway_was_killed_is_looked_at_first(
    hub, desk, clinic, write, sound
):
    parcel, content, named = laid_out(desk, write)
    file = parcels.path(clinic.folder / parcels.INBOX, parcel)
    file.parent.mkdir()
    memory.part(file).write_bytes(content if sound else b"y" * len(content))
    pull(hub, clinic, named)
    assert file.read_bytes() == content
    assert len(desk.asked) == (0 if sound else 1)


def test_a_message_whose_adapter_is_gone_passes_and_its_work_will_say_so(hub, desk, clinic, write):
    parcel, _, named = laid_out(desk, write)
    desk.laid_out.clear()
    assert pull(hub, clinic, named).object_content == named
    assert not parcels.path(clinic.folder / parcels.INBOX, parcel).exists()


def changed(desk, clinic, write, tmp_path):
    """Lay out an adapter of which a hundredth changed, and its delta from the one in the inbox.

    Return the offer, the adapter's bytes and the object of the message that makes the offer.
    """
    hub = tmp_path / "parcels"
    moved = np.where(np.arange(ARRAYS["values"].size) % 100, ARRAYS["values"], -1)
    start, parcel = (parcels.keep(hub, {"values": each}) for each in (ARRAYS["values"], moved))
    offer = Offer(parcel, deltas.between(hub, start, parcel))
    for each in (parcel, offer.delta.parcel):
        desk.laid_out[str(each)] = parcels.path(hub, each).read_bytes()
    parcels.keep(clinic.folder / parcels.INBOX, ARRAYS)
    objects = write(RecordDict({"parcel": ConfigRecord({**offer.said()})})).objects
    (named,) = [each for each in objects.values() if str(parcel).encode() in each]
    return offer, desk.laid_out[str(parcel)], named


def fetched(desk):
    """Return the parcels that were asked for, one after the other."""
    return [each[2]["parcel"] for each in desk.asked]


def test_a_silo_that_holds_the_adapter_before_fetches_only_what_changed(
    hub, desk, clinic, write, tmp_path
):
    offer, content, named = changed(desk, clinic, write, tmp_path)
    assert pull(hub, clinic, named).object_content == named
    inbox = clinic.folder / parcels.INBOX
    assert parcels.path(inbox, offer.parcel).read_bytes() == content
    assert fetched(desk) == [str(offer.delta.parcel)]
    assert offer.delta.parcel.bytes < 0.02 * offer.parcel.bytes
    assert {file.stem for file in inbox.iterdir()} == {
        offer.parcel.sha256,
        offer.delta.start.sha256,
    }
    pull(hub, clinic, named)  # named again, to train
    assert fetched(desk) == [str(offer.delta.parcel)]


def test_a_delta_goes_on_where_a_cut_left_it(hub, desk, clinic, write, tmp_path):
    offer, content, named = changed(desk, clinic, write, tmp_path)
    short, inbox = offer.delta.parcel, clinic.folder / parcels.INBOX
    memory.part(parcels.path(inbox, short)).write_bytes(desk.laid_out[str(short)][:1000])
    pull(hub, clinic, named)
    assert parcels.path(inbox, offer.parcel).read_bytes() == content
    assert [each[3].get("Range") for each in desk.asked] == ["bytes=1000-"]


@pytest.mark.parametrize("start", ["gone", "damaged"])
def test_a_silo_that_does_not_hold_the_adapter_before_fetches_the_whole_one(
    hub, desk, clinic, write, tmp_path, start
):
    offer, content, named = changed(desk, clinic, write, tmp_path)
    file = parcels.path(clinic.folder / parcels.INBOX, offer.delta.start)
    file.unlink() if start == "gone" else file.write_bytes(content)
    pull(hub, clinic, named)
    assert parcels.path(file.parent, offer.parcel).read_bytes() == content
    assert fetched(desk) == [str(offer.parcel)]


def test_a_silo_of_whose_adapter_less_is_missing_than_changed_fetches_the_rest(
    hub, desk, clinic, write, tmp_path
):
    offer, content, named = changed(desk, clinic, write, tmp_path)
    file = parcels.path(clinic.folder / parcels.INBOX, offer.parcel)
    memory.part(file).write_bytes(content[:-1000])
    pull(hub, clinic, named)
    assert file.read_bytes() == content
    assert fetched(desk) == [str(offer.parcel)]


@pytest.mark.parametrize("damage", ["gone", "other bytes", "too many", "too few", "to another"])
def test_where_anything_is_wrong_with_a_delta_the_whole_adapter_is_fetched(
    hub, desk, clinic, write, tmp_path, damage
):
    offer, content, named = changed(desk, clinic, write, tmp_path)
    short, said = offer.delta.parcel, desk.laid_out.pop(str(offer.delta.parcel))
    if damage == "to another":
        said = b"".join(deltas.made(content, content))
        other = Parcel(hashlib.sha256(said).hexdigest(), len(said))
        offer = Offer(offer.parcel, offer.delta._replace(parcel=other))
        objects = write(RecordDict({"parcel": ConfigRecord({**offer.said()})})).objects
        (named,) = [each for each in objects.values() if str(other).encode() in each]
        short = other
    if damage != "gone":
        desk.laid_out[str(short)] = {
            "other bytes": said[:-1] + bytes([said[-1] ^ 1]),
            "too many": said + b"x",
            "too few": said[:-1],
        }.get(damage, said)
    assert pull(hub, clinic, named).object_content == named
    inbox = clinic.folder / parcels.INBOX
    assert parcels.path(inbox, offer.parcel).read_bytes() == content
    assert fetched(desk)[-1] == str(offer.parcel) and set(fetched(desk)[:-1]) == {str(short)}
    assert {file.stem for file in inbox.iterdir()} == {
        offer.parcel.sha256,
        offer.delta.start.sha256,
    }


def test_a_reply_that_offers_a_delta_does_not_leave(hub, desk, clinic, write):
    parcel, _ = kept(clinic)
    reply = reply_naming(parcel)
    for key in ("delta", "start"):
        reply.config_records["parcel"][key] = str(parcel)
    assert push(clinic, write(reply))["parcel"] == 403
    assert not desk.asked
    assert hub.told() == [(RUN, "content_not_allowed")]


def quiet(desk, clinic):
    """Assert that a word which was heard led to nothing."""
    clinic.call(fleet.HEARTBEAT, heartbeat_interval=30)
    time.sleep(0.2)
    assert not desk.asked


def test_an_update_is_whole_at_the_hub_before_any_reply_names_it(desk, clinic, write, asked):
    asked(clinic)
    parcel, content = kept(clinic)
    posted.say(clinic.folder, parcel)
    until(lambda: desk.held == content)
    (entry,) = [e for e in audit.read(clinic.folder) if e.kind == trip.PATH and e.bytes]
    assert (entry.study, entry.round, entry.sha256) == ("small", "3", parcel.sha256)
    assert set(push(clinic, write(reply_naming(parcel), group="3")).values()) == {200}
    assert [each[0] for each in desk.asked].count("POST") == 1


def test_an_update_sent_ahead_and_its_reply_count_once(desk, clinic, write, asked):
    parcel, content = kept(clinic)
    clinic.allow(
        "max_bytes_per_round = 1073741824", f"max_bytes_per_round = {len(content) + 10_000}"
    )
    asked(clinic)
    posted.say(clinic.folder, parcel)
    until(lambda: desk.held == content)
    assert set(push(clinic, write(reply_naming(parcel), group="3")).values()) == {200}


def test_nothing_is_sent_ahead_of_a_message_that_was_not_given(desk, clinic):
    posted.say(clinic.folder, kept(clinic)[0])
    quiet(desk, clinic)


def test_an_update_over_the_policys_bytes_is_not_sent_ahead(desk, clinic, asked):
    parcel, content = kept(clinic)
    clinic.allow("max_bytes_per_round = 1073741824", f"max_bytes_per_round = {len(content) - 1}")
    asked(clinic)
    posted.say(clinic.folder, parcel)
    quiet(desk, clinic)


def test_a_kind_of_message_that_is_not_answered_sends_nothing_ahead(desk, clinic, asked):
    clinic.allow('"train.alone", "train", "train.second", "evaluate"', '"evaluate"')
    asked(clinic)
    posted.say(clinic.folder, kept(clinic)[0])
    quiet(desk, clinic)


def test_a_run_that_is_refused_sends_nothing_ahead(desk, clinic, asked):
    asked(clinic)
    clinic.allow("max_rounds = 1000", "max_rounds = 0")
    posted.say(clinic.folder, kept(clinic)[0])
    quiet(desk, clinic)


@pytest.mark.parametrize("damage", ["gone", "other bytes"])
def test_what_was_changed_since_it_was_written_is_not_sent_ahead(
    desk,
    clinic,
    asked,
    damage,
):
    asked(clinic)
    parcel, content = kept(clinic)
    file = parcels.path(clinic.folder / parcels.OUTBOX, parcel)
    os.utime(file, (0, 0))  # what is written within a tick of the clock has one time
    word = " ".join(map(str, (parcel, *posted.seal(file))))
    file.unlink() if damage == "gone" else file.write_bytes(content[:-1] + b"x")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
        way.sendto(word.encode(), str(posted.path(clinic.folder)))
    quiet(desk, clinic)


def test_what_the_disk_lost_is_found_out_once_the_hub_says_so(
    hub,
    desk,
    clinic,
    write,
    asked,
    monkeypatch,
):
    asked(clinic)
    parcel, content = kept(clinic)
    parcels.path(clinic.folder / parcels.OUTBOX, parcel).write_bytes(content[:-1] + b"x")
    posted.say(clinic.folder, parcel)  # the seal is whole, the file is not what it was called
    until(lambda: any(each[0] == "POST" for each in desk.asked))
    assert push(clinic, write(reply_naming(parcel), group="3"))["parcel"] == 403
    assert hub.codes() == ["parcel_missing"] and not hub.told()
    assert [each[0] for each in desk.asked].count("POST") == 1


@pytest.mark.parametrize(
    "word", [b"", b"\xff", b"0" * 300, b"0:1 1 2 3", b"%s:3 1 2" % (b"0a" * 32)]
)
def test_what_is_no_word_is_passed_over(desk, clinic, asked, word):
    asked(clinic)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as way:
        way.sendto(word, str(posted.path(clinic.folder)))
    parcel, content = kept(clinic)
    posted.say(clinic.folder, parcel)
    until(lambda: desk.held == content)


def test_a_word_is_lost_where_no_gateway_runs(tmp_path):
    posted.say(tmp_path, parcels.keep(tmp_path / parcels.OUTBOX, ARRAYS))
    posted.say(tmp_path, Parcel("0" * 64, 3))


def test_a_seal_is_broken_by_every_write(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    before = posted.seal(file)
    assert posted.seal(file) == before
    time.sleep(0.01)
    file.write_bytes(b"two")
    assert posted.seal(file) != before
