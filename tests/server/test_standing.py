"""What is known of a hub at this moment: put together from the roster, the gateway, the queue and the run folders."""

from __future__ import annotations

import asyncio
import logging
import threading
import time

import pytest

from fl_client.config import ConfigError
from fl_server import claims, progress, queue, record, standing
from fl_server import hub as hubs
from fl_server.gateway import gate, local, seen

SILOS = ("as-1", "ne-1")


def event(**said):
    return logging.makeLogRecord({"event": said})


def worked(number, **efficiency):
    """Return the line of a round in which these silos worked, each with one rank."""
    ranks = {name: {"efficiency": {"0": value}} for name, value in efficiency.items()}
    silos = {name.replace("_", "-"): {"ranks": ranks[name]} for name in ranks}
    return {"round": number, "silos": silos | {"idle": {"refused": "why"}}}


def write(hub, name, *lines):
    folder = hub / "runs" / name
    folder.mkdir(parents=True)
    for line in lines:
        record.append(folder, line)


# The whole.


def test_a_hub_that_does_not_run_still_knows_its_roster_and_its_studies(hub, study):
    queue.add(hub, study("one", rounds=3), SILOS)
    found = standing.of(hub)
    assert found["hub"] == {"name": "demo", "address": "127.0.0.1:18443", "pid": 0}
    assert found["silos"][2] == {
        "name": "or-1", "state": "invited", "languages": ["or"], "efficiency": {},
    }  # fmt: skip
    assert found["studies"] == [
        {
            "name": "one", "state": "queued", "round": 0, "rounds": 3, "answered": [],
            "waiting": [], "error": "", "folder": str(hub / "runs" / "one"),
        }
    ]  # fmt: skip


def test_what_the_gateway_knows_of_a_silo_stands_beside_what_the_roster_says(hub):
    end, ready, loop = asyncio.Event(), threading.Event(), asyncio.new_event_loop()

    async def serve():
        async with gate.open_(hub, 1) as own, local.open_(own, hubs.socket(hub)):
            seen.note(own.seen, "as-1", node=7, contact=time.time(), hello={"version": "0.1.0"})
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(20)
    rows = {row["name"]: row for row in standing.of(hub)["silos"]}
    loop.call_soon_threadsafe(end.set)
    thread.join()
    loop.close()
    assert rows["as-1"]["connected"] and rows["as-1"]["version"] == "0.1.0"
    assert (rows["as-1"]["state"], rows["as-1"]["languages"]) == ("approved", ["as"])
    assert "connected" not in rows["ne-1"]


def test_a_hub_that_does_not_run_still_knows_when_it_last_heard_a_silo(hub):
    (hub / "seen").mkdir()
    heard = time.time() - 10
    seen.note(seen.load(hub / "seen"), "as-1", node=7, contact=heard, hello={"version": "0.1.0"})
    row, never, _ = standing.of(hub)["silos"]
    assert row["last_contact_s_ago"] == pytest.approx(10, abs=5)
    assert (row["version"], row["connected"]) == ("0.1.0", False)
    assert "last_contact_s_ago" not in never


def test_who_is_waited_for_is_told_of_a_study_that_runs_alone(hub, study):
    queue.add(hub, study("one"), SILOS)
    asked = progress.Progress(queue.folder(hub, "one"))
    asked.emit(event(kind="ask", what="train", silos=SILOS))
    asked.emit(event(kind="answer", silo="ne-1", code=""))
    queue.move(hub, "one", "running")
    (row,) = standing.of(hub)["studies"]
    assert (row["answered"], row["waiting"]) == (["ne-1"], ["as-1"])
    queue.move(hub, "one", "failed", error="why")
    (row,) = standing.of(hub)["studies"]
    assert (row["answered"], row["waiting"], row["error"]) == ([], [], "why")


@pytest.mark.parametrize(
    "damage", ["errors = Infinity", "= 3", "no_such_key = 3", None], ids=lambda text: str(text)
)
def test_a_study_that_cannot_be_read_is_shown_with_the_reason_beside_the_others(hub, study, damage):
    for name in ("one", "two", "three"):
        queue.add(hub, study(name, rounds=3), SILOS)
    path = queue.folder(hub, "two") / "study.toml"
    path.unlink() if damage is None else path.write_text(f"[alone]\n{damage}\n")
    with pytest.raises(ConfigError):
        queue.study_of(hub, "two")
    one, two, three = standing.of(hub)["studies"]
    assert [one["rounds"], two["rounds"], three["rounds"]] == [3, 0, 3]
    assert (two["name"], two["state"], one["error"]) == ("two", "queued", "")
    assert "study" in two["error"] or "no_such_key" in two["error"]
    queue.move(hub, "two", "failed", error="why")
    assert standing.of(hub)["studies"][1]["error"] == "why"


def test_a_record_that_cannot_be_read_hides_no_other(hub, study):
    for name, newest in (("one", 0.3), ("two", 0.5)):
        queue.add(hub, study(name), SILOS)
        write(hub, name, worked(0, as_1=0.1), worked(1, as_1=newest))
    for path in (record.FILE, record.COPY):
        lost = hub / "runs" / "two" / path
        lost.write_bytes(lost.read_bytes().replace(b"0.1", b"0.2"))
    with pytest.raises(ConfigError, match="is damaged"):
        record.lines(hub / "runs" / "two")
    assert standing.of(hub)["silos"][0]["efficiency"] == {"0": 0.3}


def test_a_silos_efficiency_is_that_of_the_last_round_it_worked_in_of_the_newest_study(hub, study):
    for name in ("one", "two"):
        queue.add(hub, study(name), SILOS)
    write(hub, "one", worked(1, as_1=0.1, ne_1=0.2))
    write(hub, "two", worked(1, as_1=0.3), worked(2, as_1=0.4), worked(3))
    found = {row["name"]: row["efficiency"] for row in standing.of(hub)["silos"]}
    assert found == {"as-1": {"0": 0.4}, "ne-1": {"0": 0.2}, "or-1": {}}


def test_each_record_is_read_once_and_none_that_tells_nothing_new(hub, study, monkeypatch):
    for name in ("one", "two", "three"):
        queue.add(hub, study(name), SILOS)
        write(hub, name, worked(1, as_1=0.1, ne_1=0.2, or_1=0.3))
    write(hub, "four", worked(1, as_1=0.4))
    queue.add(hub, study("four"), SILOS)
    read, lines = [], record.lines
    monkeypatch.setattr(record, "lines", lambda at: read.append(at.name) or lines(at))
    found = {row["name"]: row["efficiency"] for row in standing.of(hub)["silos"]}
    assert found == {"as-1": {"0": 0.4}, "ne-1": {"0": 0.2}, "or-1": {"0": 0.3}}
    assert read == ["four", "three"]


# Progress, which the rounds log.


def test_a_silo_that_answered_is_waited_for_no_more(tmp_path):
    now = progress.Progress(tmp_path)
    now.emit(event(kind="ask", what="train", silos=["b", "a", "c"]))
    assert progress.read(tmp_path)["waiting"] == ["a", "b", "c"]
    for name in ("c", "a"):
        now.emit(event(kind="answer", silo=name, code=""))
    found = progress.read(tmp_path)
    assert (found["answered"], found["waiting"]) == (["c", "a"], ["b"])
    now.emit(event(kind="ask", what="evaluate", silos=["a"]))
    found = progress.read(tmp_path)
    assert (found["asked_for"], found["answered"], found["waiting"]) == ("evaluate", [], ["a"])


def test_a_study_that_goes_on_is_at_the_round_where_it_was(tmp_path):
    progress.Progress(tmp_path).emit(event(kind="round", line={"round": 5}))
    progress.Progress(tmp_path).emit(event(kind="ask", what="train", silos=["a"]))
    assert progress.read(tmp_path)["round"] == 5


@pytest.mark.parametrize("damage", [b"", b'{"round": 5, "answ', b"\x80\xff", b"[1]", b"null"])
def test_a_progress_that_is_damaged_is_begun_anew_and_ends_no_study(hub, study, damage):
    queue.add(hub, study("one", rounds=3), SILOS)
    queue.move(hub, "one", "running")
    here = queue.folder(hub, "one")
    (here / progress.FILE).write_bytes(damage)
    assert standing.of(hub)["studies"][0]["round"] == 0
    with claims.claimed(hub, "one"):
        assert (here / progress.FILE).read_bytes() == damage
        now = logging.getLogger("bhasha_fl")
        now.info("round 2", extra={"event": {"kind": "round", "line": {"round": 2}}})
        assert standing.of(hub)["studies"][0]["round"] == 2
    assert queue.one(hub, "one").state == "finished"


@pytest.mark.parametrize("said", [{}, {"kind": "something else"}])
def test_what_is_no_step_of_a_study_changes_nothing(tmp_path, said):
    progress.Progress(tmp_path).emit(event(**said))
    progress.Progress(tmp_path).emit(logging.makeLogRecord({"msg": "no event"}))
    assert progress.read(tmp_path) == {}


def test_a_disk_that_is_full_does_not_end_a_study_over_its_progress(tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(progress, "write_whole", full)
    progress.Progress(tmp_path).emit(event(kind="round", line={"round": 1}))
    assert progress.read(tmp_path) == {}
