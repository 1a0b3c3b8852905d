"""The queue: whose turn it is, which names are taken, who may change a ticket, and who runs a study."""

from __future__ import annotations

import errno
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fl_client.config import ConfigError
from fl_server import claims, progress, queue, room
from fl_server.run import RoundFailed

ROOT = Path(__file__).parents[2]
LOG = logging.getLogger("bhasha_fl.hub")
SILOS = ("as-1", "ne-1")


@pytest.fixture
def running(hub, study):
    """Return a hub whose study ``one`` runs, as far as its ticket says."""
    queue.add(hub, study("one"), SILOS)
    queue.move(hub, "one", "running")
    return hub


def start(script, *arguments):
    """Start a program of the hub's in a process of its own."""
    head = "import sys, time\nfrom pathlib import Path\nfrom fl_server import claims, queue\n"
    command = [sys.executable, "-c", head + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_studies_stand_in_the_order_in_which_they_were_queued(hub, study):
    for name in ("z", "a", "m"):
        queue.add(hub, study(name), SILOS)
    assert [ticket.name for ticket in queue.tickets(hub)] == ["z", "a", "m"]
    assert {ticket.state for ticket in queue.tickets(hub)} == {"queued"}


def test_studies_queued_at_the_same_moment_have_one_order_everywhere(hub, study):
    for name in ("z", "a"):
        queue.add(hub, study(name), SILOS)
        queue.note(hub, name, order=1)
    assert [ticket.name for ticket in queue.tickets(hub)] == ["a", "z"]


def test_a_queued_study_is_read_back_as_it_was(hub, study):
    given = study("one", rounds=3, train__steps=5, strategy="fedprox(mu=0.5)")
    ticket = queue.add(hub, given, SILOS)
    assert queue.study_of(hub, "one") == given
    assert queue.one(hub, "one") == ticket
    assert ticket.silos == SILOS and ticket.changed


def test_a_name_is_taken_once_and_the_hint_depends_on_whether_it_is_the_same_study(hub, study):
    queue.add(hub, study("one"), SILOS)
    with pytest.raises(ConfigError, match=r"named 'one' \(queued\); continue it with: fl-server r"):
        queue.add(hub, study("one"), SILOS)
    with pytest.raises(ConfigError, match=r"give the new one another study.name"):
        queue.add(hub, study("one", seed=8), SILOS)
    assert queue.study_of(hub, "one") == study("one")


def test_a_study_that_is_not_there_is_refused_and_leaves_no_folder(hub, study):
    with pytest.raises(ConfigError, match="no study 'two'; it has: none yet"):
        queue.one(hub, "two")
    queue.add(hub, study("one"), SILOS)
    with pytest.raises(ConfigError, match="no study 'two'; it has: one"):
        queue.move(hub, "two", "stopped")
    assert not queue.folder(hub, "two").exists()


def test_a_damaged_ticket_has_failed_in_one_sentence_and_holds_up_no_other_study(hub, study):
    for name in ("one", "two"):
        queue.add(hub, study(name), SILOS)
    (queue.folder(hub, "one") / "ticket.json").write_text('{"name": "one"}')
    said = r"ticket.json is damaged: 'order' is missing; put back"
    with pytest.raises(ConfigError, match=said):
        queue.one(hub, "one")
    damaged, sound = queue.tickets(hub)
    assert (damaged.name, damaged.state, sound.state) == ("one", "failed", "queued")
    assert re.search(said, damaged.error)
    assert queue.add(hub, study("three"), SILOS).order == sound.order + 1
    with pytest.raises(ConfigError, match=said):
        queue.add(hub, study("one"), SILOS)


def test_a_ticket_that_is_cut_short_is_told_in_words_and_not_shown(hub, study):
    queue.add(hub, study("one"), SILOS)
    (queue.folder(hub, "one") / "ticket.json").write_text('{"name": "o')
    with pytest.raises(ConfigError, match="ticket.json is damaged: it holds no JSON object; put"):
        queue.one(hub, "one")


def test_a_state_changes_only_from_the_states_given(running):
    assert queue.move(running, "one", "stopped", {"queued"}, error="no").state == "running"
    assert queue.one(running, "one").error == ""
    assert queue.move(running, "one", "failed", {"running"}, error="why").error == "why"


def test_a_ticket_that_does_not_change_keeps_its_time(running):
    path = queue.folder(running, "one") / "ticket.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"changed": "long ago"}))
    assert queue.move(running, "one", "stopped", {"queued"}).changed == "long ago"
    assert queue.move(running, "one", "stopped").changed != "long ago"


def test_two_processes_that_change_one_ticket_at_once_lose_nothing(running):
    script = """
hub = Path(sys.argv[1])
print("in", flush=True)
while not (hub / "go").exists():
    pass
for _ in range(25):
    queue.change(hub, "one", lambda t: t.model_copy(update={"attempts": t.attempts + 1}))
"""
    with start(script, running) as one, start(script, running) as other:
        assert [one.stdout.readline(), other.stdout.readline()] == ["in\n", "in\n"]
        (running / "go").touch()
        assert (one.wait(60), other.wait(60)) == (0, 0)
    assert queue.one(running, "one").attempts == 50


def test_a_study_is_held_while_a_process_runs_it_and_no_longer_once_that_was_killed(running):
    script = (
        'with claims.claimed(Path(sys.argv[1]), "one"): print("in", flush=True); time.sleep(60)'
    )
    assert not claims.held(running, "one")
    with start(script, running) as process:
        assert process.stdout.readline() == "in\n"
        held = [claims.held(running, "one"), claims.held(running, "one")]
        process.send_signal(signal.SIGKILL)
    assert held == [True, True]
    assert not claims.held(running, "one")
    assert queue.one(running, "one").state == "running", "it is to be taken up again"


def test_a_study_that_never_ran_is_not_held(hub, study):
    queue.add(hub, study("one"), SILOS)
    assert not claims.held(hub, "one")


def test_a_study_that_ends_well_is_finished_and_its_log_and_progress_are_beside_it(running):
    queue.note(running, "one", error="an earlier one")
    with claims.claimed(running, "one"):
        LOG.info("round 1 is committed", extra={"event": {"kind": "round", "line": {"round": 1}}})
        LOG.debug("only for the progress")
    ticket = queue.one(running, "one")
    assert (ticket.state, ticket.error) == ("finished", "")
    log = (queue.folder(running, "one") / "log.txt").read_text()
    assert "INFO round 1 is committed" in log and "only for the progress" not in log
    assert progress.read(queue.folder(running, "one"))["round"] == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [(ConfigError("no silo answered"), "no silo answered"), (RuntimeError(), "RuntimeError")],
)
def test_a_study_that_ends_with_an_error_is_failed_with_the_reason(running, error, said):
    with pytest.raises(type(error)), claims.claimed(running, "one"):
        raise error
    ticket = queue.one(running, "one")
    assert (ticket.state, ticket.error) == ("failed", said)
    log = (queue.folder(running, "one") / "log.txt").read_text()
    assert "the study ended before its last round" in log and "Traceback" in log
    assert not claims.held(running, "one")


def test_a_study_whose_round_lacks_silos_is_taken_up_again_and_says_why(running):
    with pytest.raises(RoundFailed), claims.claimed(running, "one"):
        raise RoundFailed("round 3 has 1 of 2 updates and needs 2", "continue with --resume here")
    ticket = queue.one(running, "one")
    assert (ticket.state, ticket.error) == ("running", "round 3 has 1 of 2 updates and needs 2")
    assert "round 3 has 1 of 2" in (queue.folder(running, "one") / "log.txt").read_text()


def test_a_study_that_is_ended_from_outside_is_not_failed(running):
    with pytest.raises(KeyboardInterrupt), claims.claimed(running, "one"):
        raise KeyboardInterrupt
    assert queue.one(running, "one").state == "running"


@pytest.mark.parametrize(
    ("error", "fits"),
    [(OSError(errno.ENOSPC, "full"), True), (RuntimeError("Flower's database is full"), False)],
)
def test_a_study_that_ends_for_want_of_disk_is_not_failed(running, monkeypatch, error, fits):
    monkeypatch.setattr(room, "fits", lambda folder: fits)
    with pytest.raises(type(error)), claims.claimed(running, "one"):
        raise error
    assert queue.one(running, "one").state == "running"
    assert room.WAITS in (queue.folder(running, "one") / "log.txt").read_text()


def test_an_error_while_a_study_is_being_stopped_does_not_fail_it(running):
    with pytest.raises(OSError), claims.claimed(running, "one"):
        queue.move(running, "one", "stopping")
        raise OSError("the grid went away")
    assert queue.one(running, "one").state == "stopping"


@pytest.mark.parametrize("state", ["queued", "stopping", "stopped", "finished", "failed"])
def test_a_run_that_comes_too_late_does_no_round(running, state):
    queue.move(running, "one", state)
    rounds = []
    with (
        pytest.raises(ConfigError, match=f"one is {state}; this run of it came too late"),
        claims.claimed(running, "one"),
    ):
        rounds.append(1)
    assert not rounds
    assert queue.one(running, "one").state == state


def test_logging_is_as_it_was_once_a_study_has_ended(running):
    logger = logging.getLogger("bhasha_fl")
    before = list(logger.handlers)
    with claims.claimed(running, "one"):
        assert len(logger.handlers) == len(before) + 2
    assert logger.handlers == before
