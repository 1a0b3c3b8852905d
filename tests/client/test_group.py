"""The worker group: its shape, and, slower, real ranks of it that are killed, asked to leave and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from fl_client import bases, frames, group, outbox, parcels, pulse, silo, site
from fl_client.config import ConfigError, Study, flat, from_flat
from fl_client.group import Shape
from fl_client.messages import TOKENS, Fault, Order
from fl_client.site import Place
from fl_client.workers import Job
from strategies import adapter as algebra
from strategies import scope

ROOT = Path(__file__).parent.parent.parent
SETTINGS = silo.Settings(
    name="clinic",
    federation="ours",
    address="hub.example.org:8443",
    data="text",
    base="builtin:tiny",
    base_sha256="0" * 64,
)
STEPS = 30


def shaped(processes="", nnodes="", endpoint="", follow=False, **changes) -> Shape:
    return group.shaped(SETTINGS.model_copy(update=changes), processes, nnodes, endpoint, follow)


def test_what_is_not_given_stands_in_the_settings():
    assert shaped() == Shape("auto", 0)
    assert shaped(threads=2, processes="3") == Shape("3", 2)
    several = SETTINGS.model_copy(update={"nnodes": 2, "rdzv_endpoint": "a:1", "processes": "4"})
    assert group.shaped(several, "", "", "", True) == Shape("4", 0, 2, 2, "a:1", follow=True)
    assert group.shaped(several, "1", "2:3", "b:2", False) == Shape("1", 0, 2, 3, "b:2")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"processes": "0"}, "--processes='0' must be auto or a number above 0"),
        ({"processes": "many"}, "--processes='many'"),
        ({"processes": "-1"}, "--processes='-1'"),
        ({"nnodes": "0"}, "--nnodes='0' must be a number of machines, or MIN:MAX"),
        ({"nnodes": "3:2", "endpoint": "a:1"}, "--nnodes='3:2'"),
        ({"nnodes": "two"}, "--nnodes='two'"),
        ({"nnodes": "2"}, "give --rdzv-endpoint host:port"),
        ({"follow": True}, "--follow is for one of several machines"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_in_one_sentence(given, said):
    with pytest.raises(ConfigError) as caught:
        shaped(**given)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "gpus", "found"),
    [("auto", 0, 1), ("3", 0, 3), ("auto", 4, 4), ("2", 4, 2), ("8", 3, 3), ("auto", 1, 1)],
)
def test_devices_are_counted_anew_and_never_more_than_there_are(asked, gpus, found, monkeypatch):
    monkeypatch.setattr(group.torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(group.torch.cuda, "device_count", lambda: gpus)
    assert group.devices(asked) == found


def test_ranks_of_one_machine_share_its_cores_and_talk_over_loopback(monkeypatch):
    monkeypatch.setattr(group.os, "cpu_count", lambda: 8)
    found = group.environment(Shape("2", 0), 2, "/place")
    assert found["OMP_NUM_THREADS"] == "4"
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == group.LOOPBACK
    assert group.environment(Shape("2", 3), 2, "/place")["OMP_NUM_THREADS"] == "3"
    several = group.environment(Shape("2", 0, 2, 2, "a:1", follow=True), 16, "/place")
    assert several == {"OMP_NUM_THREADS": "1"}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP says what it does on Linux")
@pytest.mark.parametrize(
    ("chosen", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_that_wait_sleep_rather_than_spin_unless_chosen_otherwise(chosen, kept):
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | chosen
    said = subprocess.run(
        [sys.executable, "-c", "import fl_client.model"],
        env=environment | {"OMP_DISPLAY_ENV": "true"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"OMP_WAIT_POLICY = '{kept}'" in said.stderr


def test_the_group_starts_again_with_what_is_there_and_waits_longer_each_time(monkeypatch):
    counts, lived, slept = iter([2, 1, 1, 1]), iter([0, 0, 100, 0]), []
    launched, now = [], [0.0]

    def launch(folder, shape, count):
        launched.append(count)
        now[0] += next(lived)
        if len(launched) == 4:
            raise group.SignalException("stop", signal.SIGTERM)

    monkeypatch.setattr(group, "devices", lambda asked: next(counts))
    monkeypatch.setattr(group, "launch", launch)
    monkeypatch.setattr(group.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(group.time, "sleep", slept.append)
    with pytest.raises(group.SignalException):
        group.run(Path("silo"), Shape("auto", 0))
    assert launched == [2, 1, 1, 1]
    assert slept == [1, 2, 0.5]


def help_of(*command: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    return ran.stdout


def test_the_slurm_example_is_a_shell_script_whose_options_and_variables_exist():
    script = ROOT / "deploy" / "slurm" / "silo.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    said = script.read_text()
    (worker,) = re.findall(r'fl_client\.group "\$SILO" (.*)', said)
    options = help_of("fl_client.group")
    assert worker == "--follow"
    for known in (worker, *re.findall(r"BHASHA_[A-Z_]+", said)):
        assert known in options


def test_a_folder_that_is_no_silo_is_refused_in_one_sentence(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "fl_client.group", str(tmp_path)],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) == 1


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


class Running:
    """A worker group in a process of its own, as a silo starts it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.log = folder, folder / "group.log"
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fl_client.group", str(folder), *options],
                cwd=ROOT,
                stdout=stream,
                stderr=stream,
                env=os.environ
                | {"GLOO_SOCKET_IFNAME": group.LOOPBACK, pulse.FILE: str(folder / "workers.pulse")},
            )

    def ranks(self) -> list[psutil.Process]:
        return ranks_of(self.process.pid)

    def stop(self) -> None:
        """Ask the group to stop, and wait until nothing of it is left."""
        left = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        assert self.process.wait(timeout=40) == 0
        gone, alive = psutil.wait_procs(left, timeout=5)
        assert not alive


def ranks_of(pid: int) -> list[psutil.Process]:
    """Return the ranks among all that a process has started, the first one first."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(
                psutil.NoSuchProcess
            ):  # one that just ended is no rank any more
                if "fl_client.rank" in process.cmdline():
                    found.append(process)
    return sorted(found, key=lambda p: p.pid)


@pytest.fixture(scope="module")
def study() -> Study:
    """Return a study whose rounds take some seconds."""
    return from_flat(
        {
            "rounds": 2,
            "model.rank": 4,
            "train.steps": STEPS,
            "train.batch_size": 8,
            "train.length": 48,
            "train.dtype": "float32",
            "codec": "float32()",
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a silo that has text, is asked to keep a checkpoint at every step, and has no group yet."""
    made = with_text(tmp_path_factory.mktemp("silo"))
    yield made
    frames.socket(made).unlink(missing_ok=True)
    frames.socket(made).parent.rmdir()


def with_text(made: Path) -> Path:
    """Make a folder that of a silo with text."""
    own = site.simulated(Study())[0]
    rows = [e for split in site.SPLITS for e in getattr(own, split)]
    (made / "text").mkdir()
    text = "".join(json.dumps({"text": e.text, "lang": e.lang}) + "\n" for e in rows)
    (made / "text" / "all.jsonl").write_text(text)
    changes = {"data": str(made / "text"), "threads": 1, "checkpoint_s": 0.001}
    changes |= {"base_sha256": bases.sha256("builtin:tiny")}
    silo.create(made, SETTINGS.model_copy(update=changes))
    return made


@pytest.fixture(scope="module")
def running(folder):
    """Return a group of two ranks."""
    started = Running(folder, "--processes", "2")
    yield started
    if started.process.poll() is None:
        started.stop()


@pytest.fixture(scope="module")
def job(folder, study, running) -> Job:
    """Return the first round's job of a silo."""
    place, scripts = Place(silo=str(folder)), scope.scripts(["as"])
    asked = Job(study, place, Order(scripts=scripts), {})
    start = answered(folder, "initial", asked).arrays
    start.pop(TOKENS, None)
    return asked._replace(order=Order(scripts=scripts, start_sha256=algebra.sha256(start)))


def answered(folder, kind, job):
    """Return what the group makes of a job, with the arrays that it put into the outbox."""
    found = frames.call(frames.socket(folder), kind, job)
    return found._replace(arrays=parcels.read(folder / "outbox", found.parcel))


def fit(job: Job, at_step=None, then=None):
    """Train the round from nothing; as soon as so many steps are in the checkpoint, do ``then``."""
    folder = Path(job.place.silo)
    shutil.rmtree(folder / "studies", ignore_errors=True)
    (folder / parcels.OUTBOX / outbox.FILE).unlink(missing_ok=True)
    seen = []

    def watch():
        while not seen:
            held = list(folder.glob("studies/*/steps/round.safetensors"))
            if held and len(load_file(held[0])["losses"]) >= at_step:
                seen.append(len(load_file(held[0])["losses"]))
                then()
            time.sleep(0.01)

    watcher = threading.Thread(target=watch if then else seen.clear, daemon=True)
    watcher.start()
    found = answered(folder, "fit", job)
    watcher.join(timeout=10)
    return found, seen


@pytest.fixture(scope="module")
def whole(job):
    """Return the round as two ranks train it when nothing happens."""
    return fit(job)[0]


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(
        left[n].tobytes() == right[n].tobytes() for n in left
    )


def went_on(running: Running) -> int:
    """Return after which step training last went on."""
    return int(re.findall(r"training goes on after step (\d+) of", running.log.read_text())[-1])


@pytest.mark.slow
def test_nothing_of_a_group_can_be_reached_from_outside(running, job):
    everyone = [psutil.Process(running.process.pid), *running.ranks()]
    assert len(everyone) == 3
    listening = [c for p in everyone for c in p.net_connections("inet") if c.status == "LISTEN"]
    assert {c.laddr.ip for c in listening} <= {"127.0.0.1", "::1"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 0])
def test_a_round_whose_rank_is_killed_ends_in_the_bits_of_one_that_was_left_alone(
    number, running, job, whole
):
    found, seen = fit(job, 8, lambda: running.ranks()[number].kill())
    assert 8 <= seen[0] < STEPS - 2  # it was killed in the middle
    assert seen[0] <= went_on(running) < STEPS  # no step that was kept is done again
    assert found.facts == whole.facts
    assert len(found.facts["losses"]) == STEPS
    assert same(found.arrays, whole.arrays)
    assert found.metrics["loss"] == whole.metrics["loss"]


@pytest.mark.slow
def test_all_ranks_beat_also_while_they_train(running, job, whole):
    file, ages, done = running.folder / "workers.pulse", [], threading.Event()

    def look():
        while not done.wait(0.1):
            ages.append(pulse.silence(file))

    looking = threading.Thread(target=look)
    looking.start()
    began = time.monotonic()
    while time.monotonic() - began < 3 * pulse.EVERY_S:
        fit(job)
    done.set()
    looking.join()
    assert sorted(path.name for path in file.parent.glob("workers.pulse*")) == [
        "workers.pulse.0", "workers.pulse.1",
    ]  # fmt: skip
    assert 0.5 * pulse.EVERY_S < max(ages) < 3 * pulse.EVERY_S


SUPERVISED = """
import sys
from pathlib import Path
from fl_client.children import Child, Pace, supervise
command = [sys.executable, "-m", "fl_client.group", sys.argv[1], "--processes", "2"]
supervise(Path(sys.argv[1]), [Child("workers", command)], pace=Pace(silent_s=15.0))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only there a frozen rank can be ended")
@pytest.mark.parametrize("number", [0, 1])
def test_a_group_of_which_a_rank_is_frozen_is_started_anew_and_answers(number, tmp_path, study):
    folder = with_text(tmp_path)
    place = frames.socket(folder)
    asked = Job(study, Place(silo=str(folder)), Order(), {})
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, str(folder)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as supervisor:
        try:
            first = frames.call(place, "count", asked)
            before = ranks_of(supervisor.pid)
            assert len(before) == 2
            before[number].suspend()
            while before[number].status() != psutil.STATUS_STOPPED:
                time.sleep(0.01)
            gone, left = psutil.wait_procs(before, timeout=60)
            assert not left
            assert frames.call(place, "count", asked) == first
            assert not {p.pid for p in before} & {p.pid for p in ranks_of(supervisor.pid)}
        finally:
            supervisor.terminate()
        assert "workers was silent for 15 s; it starts again" in supervisor.stderr.read()
    place.unlink(missing_ok=True)
    place.parent.rmdir()


@pytest.mark.slow
def test_a_rank_that_is_told_to_leave_while_it_waits_is_started_again(running, job, whole):
    before = {p.pid for p in running.ranks()}
    running.ranks()[1].terminate()
    while len(now := {p.pid for p in running.ranks()}) < 2 or now & before:
        time.sleep(0.1)
    assert same(fit(job)[0].arrays, whole.arrays)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "order", "code"),
    [
        ({"train.lr": 1e30}, {}, "not_finite"),
        ({}, {"start_sha256": "0" * 64}, "basis_differs"),
        ({}, {"after": 1}, "malformed"),
    ],
)
def test_a_job_that_fails_on_all_ranks_alike_is_answered_and_the_group_goes_on(
    changes, order, code, running, job, study
):
    before = [p.pid for p in running.ranks()]
    other = from_flat(flat(study) | changes)
    asked = job._replace(study=other, order=job.order._replace(**order))
    with pytest.raises(Fault) as caught:
        frames.call(frames.socket(Path(job.place.silo)), "fit", asked)
    assert caught.value.code == code
    assert [p.pid for p in running.ranks()] == before


@pytest.mark.slow
def test_where_another_base_is_pinned_no_rank_trains_and_the_group_goes_on(running, job):
    folder = Path(job.place.silo)
    before, own = [p.pid for p in running.ranks()], silo.read(folder)
    silo.write_settings(folder, own.model_copy(update={"base_sha256": "0" * 64}))
    (folder / parcels.OUTBOX / outbox.FILE).unlink(missing_ok=True)
    try:
        with pytest.raises(Fault) as caught:
            frames.call(frames.socket(folder), "fit", job)
    finally:
        silo.write_settings(folder, own)
    assert caught.value.code == "base_not_allowed"
    assert [p.pid for p in running.ranks()] == before
    assert "is not the base that silo.toml pins" in running.log.read_text()


@pytest.mark.slow
def test_a_group_that_is_stopped_in_a_round_goes_on_there_with_one_device_fewer(
    running, job, whole
):
    left = []

    def stop():
        running.stop()
        left.append(Running(Path(job.place.silo), "--processes", "1"))

    found, seen = fit(job, 8, stop)
    try:
        assert re.search(r"asked to leave after step \d+ of", running.log.read_text())
        assert len(left[0].ranks()) == 1
        assert seen[0] <= went_on(running) < STEPS
        assert np.allclose(found.facts["losses"], whole.facts["losses"], rtol=0, atol=1e-4)
        (one,), (two,) = found.arrays.values(), whole.arrays.values()
        assert np.allclose(one, two, rtol=0, atol=1e-3)
        assert np.abs(two).max() > 0.01
    finally:
        left[0].stop()


@pytest.mark.slow
def test_two_machines_train_as_one_and_the_head_answers_whoever_came_first(
    folder, running, job, whole
):
    if running.process.poll() is None:
        running.stop()
    port = free_port()
    machines = ["--processes", "1", "--nnodes", "2", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    other = Running(folder, *machines, "--follow")
    time.sleep(3)
    head = Running(folder, *machines)
    try:
        found, _ = fit(job)
        assert same(found.arrays, whole.arrays)
        assert found.facts == whole.facts
        assert len(head.ranks()) == len(other.ranks()) == 1
    finally:
        for machine in (other, head):
            machine.process.terminate()
        for machine in (other, head):
            machine.process.wait(timeout=60)
