"""The runner: one study after another, taken up again where a run ended early, against a ``flwr`` that is none."""

from __future__ import annotations

import errno
import fcntl
import json
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fl_client import bundle, pulse, signed
from fl_client.config import from_flat
from fl_server import claims, journal, queue, room, runner
from fl_server.journal import State

SILOS = ("as-1", "ne-1")
# Notes what it is asked, then answers with the file named after its first word.
FLWR = """#!/bin/sh
echo "$*" >> {folder}/asked
cat {folder}/$1
test -x {folder}/then && exec {folder}/then "$1"
exit 0
"""


class Flwr:
    """A command line of Flower's that answers as told."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / "flwr"
        self.path.write_text(FLWR.format(folder=folder))
        self.path.chmod(0o700)
        self.says("run", {"success": True, "run-id": 7})
        self.says("stop", {"success": True, "run-id": 7})

    def says(self, word: str, answer: object) -> None:
        text = answer if isinstance(answer, str) else "a line before\n" + json.dumps(answer)
        (self.folder / word).write_text(text)

    def then(self, script: str) -> None:
        """Let it do this too, once it has answered."""
        path = self.folder / "then"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(0o700)

    def asked(self) -> list[list[str]]:
        path = self.folder / "asked"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def flwr(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    made = Flwr(folder)
    monkeypatch.setattr(runner, "FLWR", made.path)
    monkeypatch.setattr(runner, "LOOK_S", 0.01)
    monkeypatch.setattr(runner, "START_S", 0.05)
    return made


@pytest.fixture
def one(hub, study):
    queue.add(hub, study("one"), SILOS)
    return hub


@contextmanager
def held(hub, name):
    """Hold a study as the process of its rounds does."""
    with (queue.folder(hub, name) / "running.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def step(hub):
    runner.step(hub, hub / "bundle")


def standing(hub, name="one"):
    ticket = queue.one(hub, name)
    return ticket.state, ticket.run, ticket.attempts


def committed(hub, number):
    journal.commit(hub / "runs" / "one" / "journal", State(number, {}, {}, {}), set())


def test_a_queued_study_is_started_as_a_run_of_flowers_with_every_key(one, study, flwr):
    step(one)
    assert standing(one) == ("running", "7", 1)
    here = queue.folder(one, "one")
    (asked,) = flwr.asked()
    assert asked == [
        "run", str(one / "bundle"), "hub", "--run-config", str(here / "run.toml"), "--format", "json",
    ]  # fmt: skip
    assert from_flat(tomllib.loads((here / "run.toml").read_text())) == study("one")


def test_the_study_that_silos_are_shown_is_signed_for_them(one, study, flwr):
    step(one)
    key = signed.load(one / "study.key").public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    said = signed.open_((queue.folder(one, "one") / "signed.json").read_bytes(), pem)
    assert (said.study, said.silos, said.federation) == (study("one"), SILOS, "demo")
    assert said.bundle == bundle.sha256()


def test_studies_run_one_after_the_other(one, study, flwr):
    queue.add(one, study("two"), SILOS)
    step(one)
    with held(one, "one"):
        step(one)
        assert [standing(one, name)[0] for name in ("one", "two")] == ["running", "queued"]
    queue.move(one, "one", "finished")
    step(one)
    assert [standing(one, name)[0] for name in ("one", "two")] == ["finished", "running"]


def test_nothing_is_asked_of_flower_where_all_has_ended_or_runs(one, study, flwr):
    queue.move(one, "one", "stopped")
    step(one)
    queue.add(one, study("two"), SILOS)
    queue.move(one, "two", "running")
    with held(one, "two"):
        step(one)
    assert not flwr.asked()


def test_a_run_that_ended_early_is_taken_up_again_and_after_some_the_study_fails(one, flwr):
    for number in range(1, runner.ATTEMPTS + 1):
        step(one)
        assert standing(one) == ("running", "7", number)
    step(one)
    assert standing(one) == ("failed", "7", runner.ATTEMPTS)
    assert queue.one(one, "one").error == f"{runner.ATTEMPTS} runs ended early; see its log"
    assert len(flwr.asked()) == runner.ATTEMPTS


@pytest.mark.parametrize("came", [True, False])
def test_a_run_that_is_killed_before_anyone_looks_is_not_waited_for(one, flwr, monkeypatch, came):
    with held(one, "one"):
        pass  # an older run
    lock = queue.folder(one, "one") / "running.lock"
    flwr.then(f"echo 1 > {lock}" if came else "exit 0")
    looks = []
    monkeypatch.setattr(runner, "_wait", lambda until, seconds: looks.append(until()))
    step(one)
    assert looks == [came]
    assert not claims.held(one, "one")
    step(one)
    assert standing(one) == ("running", "7", 2)


def test_runs_that_end_early_do_not_add_up_as_long_as_the_study_gets_on(one, flwr):
    for number in range(2 * runner.ATTEMPTS):
        step(one)
        committed(one, number)
    assert standing(one) == ("running", "7", 1)
    for _ in range(runner.ATTEMPTS):
        step(one)
    assert standing(one)[0] == "running"
    step(one)
    assert standing(one)[0] == "failed"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"success": False, "error-message": "no such app"}, "no such app"),
        ({"success": False}, "Flower refused"),
        ("Traceback, and no JSON", "flwr run failed; see the log"),
        ("", "flwr run failed; see the log"),
    ],
)
def test_a_run_that_flower_refuses_is_tried_again_and_the_reason_kept(one, flwr, answer, said):
    flwr.says("run", answer)
    for _ in range(2 * runner.ATTEMPTS):
        step(one)
    assert standing(one) == ("running", "", 0), "no run was made, so none ended early"
    assert queue.one(one, "one").error == said
    flwr.says("run", {"success": True, "run-id": 8})
    step(one)
    assert (standing(one), queue.one(one, "one").error) == (("running", "8", 1), "")


def test_no_run_is_begun_or_counted_while_the_disk_is_nearly_full_and_one_is_when_there_is_room(
    one, flwr, monkeypatch
):
    monkeypatch.setattr(room, "fits", lambda folder: False)
    for _ in range(2 * runner.ATTEMPTS):
        step(one)
    assert (standing(one), queue.one(one, "one").error) == (("queued", "", 0), room.WAITS)
    assert not flwr.asked()
    monkeypatch.setattr(room, "fits", lambda folder: True)
    step(one)
    assert standing(one) == ("running", "7", 1)
    assert queue.one(one, "one").error == ""


def test_a_disk_that_has_no_room_for_the_reason_either_is_waited_for(one, flwr, monkeypatch):
    def full(*given, **named):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(room, "fits", lambda folder: False)
    monkeypatch.setattr(queue, "note", full)
    step(one)
    assert standing(one) == ("queued", "", 0)


def test_a_flwr_that_gives_no_answer_is_ended_and_the_run_is_tried_again(
    one, flwr, monkeypatch, caplog
):
    monkeypatch.setattr(runner, "FLWR_S", 0.5)
    flwr.then("exec sleep 60")
    began = time.monotonic()
    step(one)
    assert 0.5 <= time.monotonic() - began < 30
    assert standing(one) == ("running", "", 0)
    assert queue.one(one, "one").error == "flwr run gave no answer in 0.5 s"
    assert "flwr run gave no answer in 0.5 s" in [r.getMessage() for r in caplog.records]
    (flwr.folder / "then").unlink()
    step(one)
    assert (standing(one), len(flwr.asked())) == (("running", "7", 1), 2)


def test_the_runner_shows_that_it_is_alive_also_while_it_waits_for_a_run(
    one, flwr, tmp_path, monkeypatch
):
    file = tmp_path / "runner.pulse"
    monkeypatch.setenv(pulse.FILE, str(file))
    monkeypatch.setattr(runner, "START_S", 0.3)
    step(one)
    assert flwr.asked() and file.exists()
    file.unlink()

    def stepped(folder, app):
        assert file.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "step", stepped)
    with pytest.raises(KeyboardInterrupt):
        runner.main(one, 4711)


def test_a_reason_is_forgotten_once_a_run_starts(one, flwr):
    flwr.says("run", {"success": False, "error-message": "the SuperLink starts anew"})
    step(one)
    flwr.says("run", {"success": True, "run-id": 8})
    step(one)
    assert (standing(one), queue.one(one, "one").error) == (("running", "8", 1), "")


def test_a_run_that_a_runner_started_and_died_before_its_note_can_be_stopped(one, flwr):
    queue.move(one, "one", "running")
    with claims.claimed(one, "one", "9"):
        queue.move(one, "one", "stopping")
        step(one)
    assert [asked[:2] for asked in flwr.asked()] == [["stop", "9"]]


def test_a_run_whose_rounds_have_begun_is_the_one_that_is_stopped_not_one_started_after_it(
    one, flwr
):
    ticket = queue.folder(one, "one") / "ticket.json"
    flwr.then(f'sed -i.old \'s/"run":""/"run":"9"/;s/"run": ""/"run": "9"/\' {ticket}')
    step(one)
    assert standing(one) == ("running", "9", 1)


def test_a_study_that_is_being_stopped_is_stopped_at_flower_and_then_is(one, flwr):
    step(one)
    queue.move(one, "one", "stopping")
    with held(one, "one"):
        step(one)
        assert standing(one)[0] == "stopping", "it still runs"
    step(one)
    assert standing(one)[0] == "stopped"
    assert [asked[:2] for asked in flwr.asked()[1:]] == [["stop", "7"]] * 2


def test_a_run_whose_rounds_have_not_begun_is_stopped_at_flower_too(one, flwr):
    step(one)
    queue.move(one, "one", "stopping")
    step(one)
    assert standing(one)[0] == "stopped"
    assert flwr.asked()[-1][:2] == ["stop", "7"]


def test_a_study_that_finishes_while_it_is_being_stopped_stays_finished(one, flwr):
    step(one)
    queue.move(one, "one", "stopping")
    ticket = queue.one(one, "one")
    queue.move(one, "one", "finished")
    runner.advance(one, one / "bundle", ticket)
    assert standing(one)[0] == "finished"


def test_a_study_that_is_stopped_at_the_last_moment_is_not_started(one, flwr):
    ticket = queue.one(one, "one")
    queue.move(one, "one", "stopped")
    runner.advance(one, one / "bundle", ticket)
    assert standing(one)[0] == "stopped"
    assert not flwr.asked()


def test_the_number_of_a_run_is_noted_also_where_it_is_stopped_while_it_starts(one, flwr):
    ticket = queue.folder(one, "one") / "ticket.json"
    flwr.then(f'sed -i.old \'s/"running"/"stopping"/\' {ticket}')
    step(one)
    (flwr.folder / "then").unlink()
    assert standing(one) == ("stopping", "7", 1)
    step(one)
    assert flwr.asked()[-1][:2] == ["stop", "7"]
    assert standing(one)[0] == "stopped"


def test_a_study_that_cannot_be_read_fails_and_holds_nobody_up(one, study, flwr):
    queue.add(one, study("two"), SILOS)
    (queue.folder(one, "one") / "study.toml").write_text("[study]\nstrategee = 1\n")
    step(one)
    assert standing(one)[0] == "failed"
    assert "unknown key 'strategee'; did you mean 'strategy'?" in queue.one(one, "one").error
    step(one)
    assert standing(one, "two")[0] == "running"


def test_flower_is_told_of_this_hub_alone_and_given_the_bundle(hub):
    app = runner.prepare(hub, 4711)
    said = tomllib.loads((hub / "flower" / "config.toml").read_text())["superlink"]
    assert said == {"default": "hub", "hub": {"address": "127.0.0.1:4711", "insecure": True}}
    assert (app / "pyproject.toml").exists()
