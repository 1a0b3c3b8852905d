"""That a program is alive: what it shows by itself, and what a frozen one does not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fl_client import ports, pulse

HEAD = """
import asyncio, contextlib, sys, time
from fl_client import pulse, serving
pulse.EVERY_S = 0.05
"""
SERVES = (
    HEAD
    + """
@contextlib.asynccontextmanager
async def listening():
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", int(sys.argv[1]))
    asyncio.get_running_loop().call_later(float(sys.argv[2]), time.sleep, 60)
    async with server:
        yield int(sys.argv[1])
sys.exit(serving.run(listening()))
"""
)
WORKS = HEAD + "pulse.beat_beside('.3')\nwhile True: sum(range(10**6))\n"
WEB = "import http.server, sys; from http.server import *; "
WEB += "HTTPServer(('127.0.0.1', int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()"


def until(true: Callable[[], object], seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


@contextmanager
def running(script: str, file: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    given = os.environ | {pulse.FILE: str(file)}
    with subprocess.Popen(
        command, env=given, cwd=file.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def frozen(process: subprocess.Popen[bytes]) -> None:
    """Freeze a process and return once it is."""
    process.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{process.pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """Return the file of this process, which then is looked after."""
    monkeypatch.setenv(pulse.FILE, str(tmp_path / "one.pulse"))
    return tmp_path / "one.pulse"


def test_who_never_beat_counts_as_not_silent(file):
    assert pulse.silence(file) == 0.0


def test_who_nobody_looks_after_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(pulse.FILE, raising=False)
    pulse.beat()
    pulse.forget(pulse.own())
    assert not list(tmp_path.iterdir())


def test_a_program_is_as_silent_as_the_most_silent_of_its_processes(file, monkeypatch):
    pulse.beat(".0")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    pulse.beat(".1")
    assert 999 < pulse.silence(file) < 1060
    pulse.beat(".0")
    assert pulse.silence(file) < 60


def test_a_clock_that_is_set_changes_nothing_and_a_machine_that_slept_was_not_silent(
    file, monkeypatch
):
    pulse.beat()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert pulse.silence(file) < 60  # the monotonic clock stands still in sleep: clock_gettime(2)


def test_what_is_forgotten_is_not_silent_and_nothing_else_is_lost(file):
    pulse.beat(".0")
    pulse.beat(".1")
    (file.parent / "one.log").touch()
    pulse.forget(file)
    assert [path.name for path in file.parent.iterdir()] == ["one.log"]


def test_a_disk_that_cannot_be_written_ends_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv(pulse.FILE, str(tmp_path / "no such folder" / "one.pulse"))
    pulse.beat()
    pulse.forget(pulse.own())
    assert pulse.silence(tmp_path / "no such folder" / "one.pulse") == 0.0


@pytest.mark.parametrize("beats", [0, 1, 3])
def test_one_that_is_frozen_in_the_middle_of_a_beat_is_silent_from_then_on(
    beats, file, monkeypatch
):
    class Frozen(BaseException):
        pass

    real = os.utime

    def freezes(path, times=None):
        if times is None or not Path(path).exists():
            return real(path, times)
        raise Frozen

    for _ in range(beats):
        pulse.beat()
    with monkeypatch.context() as patch, pytest.raises(Frozen):
        patch.setattr(os, "utime", freezes)
        pulse.beat()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    # who never beat is not silent
    assert file.exists() == (pulse.silence(file) > 999) == (beats > 0)
    pulse.beat()
    assert pulse.silence(file) < 1


def test_a_server_whose_loop_is_stuck_does_not_beat_though_its_port_takes_connections(file):
    port = ports.free()
    with running(SERVES, file, port, 1.0):
        until(file.exists)
        assert pulse.silence(file) < 1.0
        until(lambda: pulse.silence(file) > 2.0)
        assert ports.answers(port)()


def test_a_server_that_waits_for_days_beats(file):
    with running(SERVES, file, ports.free(), 1e6):
        until(file.exists)
        beats = set()
        until(lambda: beats.add(file.stat().st_mtime_ns) or len(beats) > 5)


def test_one_that_works_without_end_beats_from_beside_its_work_until_it_is_frozen(file):
    with running(WORKS, file) as process:
        part = file.with_name("one.pulse.3")
        until(part.exists)
        beats = set()
        until(lambda: beats.add(part.stat().st_mtime_ns) or len(beats) > 5)
        frozen(process)
        until(lambda: pulse.silence(file) > 2.0)


def test_a_frozen_web_server_answers_nothing_though_its_port_takes_connections(file, monkeypatch):
    monkeypatch.setattr(pulse, "EVERY_S", 0.05)
    monkeypatch.setattr(pulse, "ANSWER_S", 0.2)
    port = ports.free()
    silence = pulse.unanswered(port, "/health")  # 404 is an answer too
    with running(WEB, file, port) as process:
        until(ports.answers(port))
        until(lambda: silence() < 0.1)
        frozen(process)
        until(lambda: silence() > 1.0)
        assert ports.answers(port)()
        process.send_signal(signal.SIGCONT)
        until(lambda: silence() < 0.1)
    until(lambda: silence() > 1.0)


def test_a_web_server_is_not_asked_each_time_someone_wants_to_know(file):
    with socket.create_server(("127.0.0.1", 0)) as server:
        silence = pulse.unanswered(server.getsockname()[1], "/")
        for _ in range(100):
            silence()
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
