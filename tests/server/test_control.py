"""The coordinator's everyday commands, as typed: what they print, also as JSON, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from typer.testing import CliRunner

from fl_client import lock
from fl_server import control, queue
from fl_server.cli import app

SILOS = ("as-1", "ne-1")


@pytest.fixture
def call(hub, monkeypatch):
    """Return a function that types a command of ``fl-server`` at this hub."""
    monkeypatch.setenv("BHASHA_HUB", str(hub))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(control, "LOOK_S", 0.01)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('[study]\nname = "one"\nrounds = 3\n')
    return path


def said(ran):
    assert ran.exit_code == 0, ran.output
    return " ".join(ran.stdout.split())


def refused(ran):
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1
    assert not ran.stdout
    return ran.stderr


# run


def test_a_study_is_queued_for_all_approved_silos_and_a_hub_that_does_not_run_is_said(
    call, file, hub
):
    assert said(call("run", file)) == (
        "one is queued for as-1, ne-1 the hub does not run: start it with fl-server start"
    )
    assert queue.one(hub, "one").silos == SILOS
    assert queue.study_of(hub, "one").rounds == 3


def test_a_hub_that_runs_is_not_said(call, file, hub):
    with lock.only_one(hub):
        assert said(call("run", file)) == "one is queued for as-1, ne-1"


def test_a_study_may_be_for_some_silos_and_have_keys_changed(call, file, hub):
    ran = call("run", file, "--silos", " ne-1,", "--set", "rounds=5", "--json")
    ticket = json.loads(said(ran))
    assert (ticket["silos"], ticket["state"], ticket["order"]) == (["ne-1"], "queued", 1)
    assert queue.study_of(hub, "one").rounds == 5


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--silos", "or-1"], "silo or-1 is not approved; approved: as-1, ne-1"),
        (["--silos", "as-1,nobody"], "silo nobody is not approved"),
        (["--set", "rounds"], "write it as key=value"),
        (["--set", "strategy=fedavgg()"], "did you mean 'fedavg'"),
        (["--hub", "nowhere"], "there is no nowhere/hub.toml; `fl-server init DIR` makes"),
    ],
)
def test_what_cannot_be_queued_is_refused_and_leaves_no_ticket(call, file, hub, words, why):
    assert why in refused(call("run", file, *words))
    assert not queue.tickets(hub)


def test_a_study_for_nobody_is_refused(call, file, hub):
    for name in SILOS:
        (hub / "roster" / f"{name}.json").unlink()
    assert "no silo can take part; approved: none; invite silos" in refused(call("run", file))


def test_a_name_that_is_taken_is_refused(call, file):
    call("run", file)
    assert "continue it with: fl-server resume one" in refused(call("run", file))
    assert "another study.name" in refused(call("run", file, "--set", "seed=8"))


def test_a_study_file_that_is_not_there_is_refused(call, tmp_path):
    assert "no study file" in refused(call("run", tmp_path / "none.toml"))


# status


def test_the_status_names_the_hub_its_silos_and_its_studies(call, file):
    call("run", file)
    shown = said(call("status"))
    assert "hub demo: does not run" in shown
    for word in ("as-1", "approved", "never", "or-1", "invited", "one", "queued", "0 of 3"):
        assert word in shown


def test_words_that_a_silo_chose_are_shown_as_they_are_and_are_no_markup(call, file, hub):
    call("run", file)
    queue.move(hub, "one", "failed", error="silo b introduced itself as '[/x] :smile:'")
    assert "introduced itself as '[/x] :smile:'" in said(call("status"))


def test_the_status_as_json_is_one_line_that_a_program_reads(call, file, hub):
    call("run", file)
    with lock.only_one(hub):
        found = json.loads(call("status", "--json").stdout)
    assert found["hub"]["pid"] == os.getpid()
    assert [row["name"] for row in found["silos"]] == ["as-1", "ne-1", "or-1"]
    assert found["studies"][0]["name"] == "one"


def test_the_status_of_no_hub_is_refused(call):
    assert "there is no nowhere/hub.toml" in refused(call("status", "--hub", "nowhere"))


def test_what_a_silo_said_of_itself_is_shown_in_units_that_people_read():
    row = {"name": "as-1", "state": "approved", "languages": ["as", "bn"], "version": "0.1.0"}
    row |= {"last_contact_s_ago": 3.4, "uplink_bytes_s": 2.5e6, "efficiency": {"1": 0.5, "0": 0.93}}
    shown = ["as-1", "approved", "3 s ago", "0.1.0", "as, bn", "2.5 MB/s", "0.93 0.50"]
    assert control._silo_row(row) == shown
    assert control._silo_row({"name": "a", "state": "b"}) == ["a", "b", "never", "", "", "", ""]


# stop and resume


def stands(hub, state, **others):
    return queue.move(hub, "one", state, **others)


@pytest.mark.parametrize(
    ("before", "after"), [("queued", "stopped"), ("running", "stopping"), ("stopping", "stopping")]
)
def test_a_study_is_stopped_wherever_it_stands_and_the_answer_says_how_far_that_is(
    call, file, hub, before, after
):
    call("run", file)
    stands(hub, before)
    assert said(call("stop", "one")) == f"one is {after}; its committed rounds are kept"
    assert queue.one(hub, "one").state == after


@pytest.mark.parametrize("state", sorted(queue.ENDED))
def test_a_study_that_has_ended_cannot_be_stopped(call, file, hub, state):
    call("run", file)
    stands(hub, state)
    assert f"one is {state} already" in refused(call("stop", "one"))
    assert queue.one(hub, "one").state == state


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_a_study_that_was_stopped_or_failed_goes_on_with_all_its_tries(call, file, hub, state):
    call("run", file)
    stands(hub, state, attempts=5, error="5 runs ended early")
    assert "one is queued and goes on after its last committed round" in said(call("resume", "one"))
    ticket = queue.one(hub, "one")
    assert (ticket.state, ticket.attempts, ticket.error) == ("queued", 0, "")


@pytest.mark.parametrize("state", ["queued", "running", "stopping", "finished"])
def test_no_other_study_goes_on(call, file, hub, state):
    call("run", file)
    stands(hub, state)
    assert f"one is {state}; only a stopped or failed study" in refused(call("resume", "one"))
    assert queue.one(hub, "one").state == state


@pytest.mark.parametrize("command", ["stop", "resume", "log"])
def test_a_study_that_is_not_there_is_refused_with_those_that_are(call, file, command):
    assert "no study 'two'; it has: none yet" in refused(call(command, "two"))
    call("run", file)
    assert "no study 'two'; it has: one" in refused(call(command, "two"))


def test_the_hub_itself_is_stopped_where_no_study_is_named(call, hub):
    assert said(call("stop")) == "the hub did not run"
    script = "import sys, time; from pathlib import Path; from fl_client import lock\n"
    script += 'with lock.only_one(Path(sys.argv[1])): print("in", flush=True); time.sleep(60)'
    command = [sys.executable, "-c", script, str(hub)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        assert said(call("stop")) == "the hub is stopped"
    assert process.returncode != 0
    assert "there is no nowhere/hub.toml" in refused(call("stop", "--hub", "nowhere"))


@pytest.mark.parametrize("name", ["", " "])
def test_a_name_that_is_empty_stops_no_hub(call, hub, monkeypatch, name):
    monkeypatch.setattr(control.children, "stop", lambda _: pytest.fail("the hub is stopped"))
    assert "names no study; name one, or nothing" in refused(call("stop", name))


@pytest.mark.parametrize("command", ["log", "resume", "stop"])
def test_in_a_folder_that_is_no_hubs_there_is_said_to_be_none(call, command):
    assert "there is no nowhere/hub.toml" in refused(call(command, "one", "--hub", "nowhere"))


# log


def write(hub, text):
    with (queue.folder(hub, "one") / "log.txt").open("a", encoding="utf-8") as log:
        log.write(text)


def test_a_log_is_printed_as_far_as_it_goes(call, file, hub):
    call("run", file)
    assert call("log", "one").stdout == ""
    write(hub, "ৰাউণ্ড 1\nround 2\n")
    assert call("log", "one").stdout == "ৰাউণ্ড 1\nround 2\n"


def test_a_line_that_is_half_written_is_not_torn_in_a_letter(call, file, hub):
    call("run", file)
    write(hub, "whole\n")
    with (queue.folder(hub, "one") / "log.txt").open("ab") as log:
        log.write("ৰ".encode()[:2])
    assert call("log", "one").stdout == "whole\n"


@pytest.mark.parametrize("state", sorted(queue.ENDED))
def test_a_log_that_is_followed_grows_and_ends_when_the_study_does(call, file, hub, state):
    call("run", file)
    stands(hub, "running")
    write(hub, "round 1\n")

    def end():
        for number in (2, 3):
            write(hub, f"round {number}\n")
            time.sleep(0.05)
        write(hub, "the last word\n")
        stands(hub, state)

    ending = threading.Timer(0.1, end)
    ending.start()
    ran = call("log", "one", "--follow")
    ending.join()
    assert ran.exit_code == 0
    assert ran.stdout == "round 1\nround 2\nround 3\nthe last word\n"


def test_a_log_that_is_followed_ends_at_once_where_the_study_has_ended(call, file, hub):
    call("run", file)
    stands(hub, "failed")
    write(hub, "no silo answered\n")
    assert call("log", "one", "-f").stdout == "no silo answered\n"
