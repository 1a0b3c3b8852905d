"""Supervision, with real processes: what ends is started again, and nothing is left when all stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_client import children, lock, notice, pulse
from fl_client.config import ConfigError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
SUPERVISOR = """
import json, sys
from pathlib import Path
from fl_client.children import Child, Pace, supervise
folder = Path(sys.argv[1])
def made(name, script, ready):
    return Child(name, [sys.executable, "-c", script, str(folder), name], {"HINT": name},
                 (folder / ready).exists if ready else None,
                 (lambda: 9e9) if "SILENT" in script else None)
supervise(folder, [made(*each) for each in json.loads(sys.argv[2])],
          pace=Pace(*json.loads(sys.argv[3])))
"""
HEAD = """
import os, signal, subprocess, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
def note(text):
    with (folder / "events").open("a") as stream:
        stream.write(text + "\\n")
def stop(number, frame):
    note("stopped " + name)
    sys.exit(0)
"""
STAYS = (
    HEAD
    + """
signal.signal(signal.SIGTERM, stop)
note(f"started {name} {os.getpid()}")
while True: time.sleep(0.05)
"""
)
DEAF = (
    HEAD
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note(f"started {name} {os.getpid()}")
while True: time.sleep(0.05)
"""
)
ENDS = (
    HEAD
    + """
note(f"started {name} {os.getpid()}")
print("no such thing", file=sys.stderr)
sys.exit(3)
"""
)
BEARS = (
    HEAD
    + """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
idle = [sys.executable, "-c", "import time; time.sleep(600)"]
same, other = subprocess.Popen(idle), subprocess.Popen(idle, start_new_session=True)
note(f"started {name} {os.getpid()}")
note(f"bore {name} {same.pid}")
note(f"bore {name} {other.pid}")
while True: time.sleep(0.05)
"""
)
BEATS = (
    HEAD
    + """
from fl_client import pulse
note(f"started {name} {os.getpid()}")
while True:
    pulse.beat()
    time.sleep(0.05)
"""
)
FAST = [0.2, 60.0, 60.0, 5.0]


class House:
    """A folder under supervision, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.process, self.said = folder, None, ""

    def start(self, *programs: tuple[str, str, str], pace: list[float] = FAST) -> None:
        command = [sys.executable, "-c", SUPERVISOR, str(self.folder), json.dumps(programs)]
        self.process = subprocess.Popen([*command, json.dumps(pace)], stderr=subprocess.PIPE)

    def events(self, kind: str) -> list[str]:
        path = self.folder / "events"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.removeprefix(kind + " ") for line in lines if line.startswith(kind + " ")]

    def pids(self, name: str, kind: str = "started") -> list[int]:
        return [int(line.split()[1]) for line in self.events(kind) if line.split()[0] == name]

    def end(self) -> str:
        """End all, and return what was said."""
        if self.process is not None and not self.process.stderr.closed:
            self.process.terminate()
            self.said = self.process.communicate()[1].decode()
        return self.said


@pytest.fixture
def house(tmp_path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.end()


def until(true: Callable[[], Any], seconds: float = 20) -> Any:
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)
    return found


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_programs_start_in_order_each_when_the_one_before_is_ready(house):
    house.start(("one", STAYS, "one is ready"), ("two", STAYS, ""))
    until(lambda: house.pids("one"))
    time.sleep(0.5)
    assert not house.pids("two")
    (house.folder / "one is ready").touch()
    until(lambda: house.pids("two"))
    assert len(house.pids("one")) == 1


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=LINUX)])
def test_systemd_is_told_when_all_are_ready_that_they_are_looked_after_and_of_the_end(
    house, monkeypatch, abstract
):
    place = f"\0bhasha-{os.getpid()}" if abstract else str(house.folder / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", place.replace("\0", "@"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(place)
        systemd.settimeout(20)

        def hears(state: str) -> set[str]:
            heard = set()
            while not any(line.startswith(state) for line in heard):
                heard.add(systemd.recv(4096).decode())
            return heard

        house.start(("one", STAYS, ""), ("two", STAYS, "two is ready"))
        assert "READY=1" not in hears("STATUS=two runs") | hears("WATCHDOG=1")
        (house.folder / "two is ready").touch()
        hears("READY=1")
        hears("WATCHDOG=1")
        house.process.terminate()
        hears("STOPPING=1")
        hears("STATUS=all is stopped")


def test_without_systemd_nothing_is_told_and_one_that_does_not_listen_holds_nobody_up(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notice.tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notice.say("two is ready")
    assert capsys.readouterr().err == "two is ready\n"


def test_a_program_that_is_killed_starts_again(house):
    house.start(("one", STAYS, ""))
    (first,) = until(lambda: house.pids("one"))
    os.kill(first, signal.SIGKILL)
    again = until(lambda: house.pids("one")[1:])
    assert again != [first]
    assert alive(again[0])
    assert "was ended by SIGKILL" in house.end()


def test_a_program_that_keeps_ending_is_started_ever_more_rarely_and_its_words_are_in_its_log(
    house,
):
    house.start(("one", ENDS, ""), pace=[0.1, 0.4, 60, 5])
    until(lambda: len(house.pids("one")) >= 5)
    said = [line for line in house.end().splitlines() if "starts again" in line]
    assert [line.split(" in ")[1].split(" s")[0] for line in said][:4] == [
        "0.1",
        "0.2",
        "0.4",
        "0.4",
    ]
    assert "ended with exit code 3" in said[0]
    assert (house.folder / "logs" / "one.log").read_text().startswith("no such thing\n")


def test_a_program_of_which_nothing_is_heard_any_more_is_ended_and_starts_again(house):
    silent, never_asked = STAYS + "# SILENT", STAYS
    house.start(("one", silent, ""), ("two", never_asked, ""), pace=[0.1, 60, 60, 5, 0.5])
    first, again = until(lambda: len(found := house.pids("one")) == 2 and found)
    assert not alive(first) and alive(again)
    assert len(house.pids("two")) == 1
    assert "one was silent for 1 s; it starts again in 0.1 s" in house.end()


@LINUX
def test_a_program_that_is_frozen_is_ended_and_starts_again_and_one_that_beats_is_left_alone(house):
    house.start(("one", BEATS, ""), ("two", BEATS, ""), pace=[0.1, 60, 60, 5, 1.0])
    (first,) = until(lambda: house.pids("one"))
    (other,) = until(lambda: house.pids("two"))
    until((house.folder / "logs" / "one.pulse").exists)
    time.sleep(1.5)
    assert len(house.events("started")) == 2
    os.kill(first, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{first}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    again = until(lambda: house.pids("one")[1:])
    assert not alive(first) and alive(again[0])
    time.sleep(1.2)
    assert house.pids("one") == [first, *again]
    assert house.pids("two") == [other]
    assert "one was silent for 1 s; it starts again in 0.1 s" in house.end()


def test_what_a_program_showed_in_an_earlier_life_is_forgotten_when_it_starts(house):
    (house.folder / "logs").mkdir()
    old = house.folder / "logs" / "one.pulse"
    old.touch()
    os.utime(old, (1, 1))
    assert pulse.silence(old) > 2
    house.start(("one", STAYS, ""), pace=[0.1, 60, 60, 5, 0.5])
    until(lambda: house.pids("one"))
    time.sleep(1.5)
    assert len(house.pids("one")) == 1
    assert not old.exists()


def test_a_program_may_be_silent_for_longer_than_others_where_it_says_so(tmp_path):
    child = children.Child("one", [], silence=lambda: 150.0, longer_s=60.0)
    kept = children.Kept(child, tmp_path / "one.log", children.PACE)
    assert children._silent(kept, 1e6, children.PACE) == ""
    kept.child = child._replace(silence=lambda: 190.0)
    assert children._silent(kept, 1e6, children.PACE) == "was silent for 190 s"
    assert children._silent(kept, 170.0, children.PACE) == ""


def test_a_program_may_be_silent_for_longer_until_it_was_ready_for_the_first_time(tmp_path):
    child = children.Child("one", [], ready=lambda: False, silence=lambda: 599.0)
    kept = children.Kept(child, tmp_path / "one.log", children.PACE)
    assert children._silent(kept, 1e6, children.PACE) == ""
    assert children._silent(kept, 1e6, children.Pace(unready_s=500)) == "was silent for 599 s"
    kept.ready = True
    assert children._silent(kept, 1e6, children.PACE) == "was silent for 599 s"


def test_the_pause_is_short_again_after_a_healthy_life(house):
    house.start(
        ("one", HEAD + "note(f'started one {os.getpid()}'); time.sleep(0.6)", ""),
        pace=[0.1, 60, 0.5, 5],
    )
    until(lambda: len(house.events("started")) >= 4)
    said = [line for line in house.end().splitlines() if "starts again" in line]
    assert all("again in 0.1 s" in line for line in said)


def test_what_cannot_be_started_is_tried_again_and_said(house):
    program = "import sys; from fl_client.children import *; from pathlib import Path; "
    program += 'supervise(Path(sys.argv[1]), [Child("x", ["/no/such/program"])], pace=Pace(0.1))'
    house.process = subprocess.Popen(
        [sys.executable, "-c", program, str(house.folder)], stderr=subprocess.PIPE
    )
    for _ in range(3):
        line = house.process.stderr.readline()
        assert line == b"x cannot start: No such file or directory: /no/such/program\n"


def test_a_stop_ends_the_last_first_and_leaves_no_process(house):
    house.start(("one", STAYS, ""), ("two", STAYS, ""), ("three", STAYS, ""))
    until(lambda: house.pids("three"))
    assert children.running(house.folder) == house.process.pid
    assert children.stop(house.folder)
    assert house.events("stopped") == ["three", "two", "one"]
    assert not [pid for name in ("one", "two", "three") for pid in house.pids(name) if alive(pid)]
    assert house.process.wait(10) == 0
    assert children.running(house.folder) == 0
    assert not children.stop(house.folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_supervisor_ends_all(house, number):
    house.start(("one", STAYS, ""), ("two", STAYS, ""))
    until(lambda: house.pids("one") and house.pids("two"))
    assert len(house.pids("one")) == 1
    house.process.send_signal(number)
    assert house.process.wait(20) == 0
    assert house.events("stopped") == ["two", "one"]


def test_a_program_that_will_not_stop_is_killed(house):
    house.start(("one", DEAF, ""), pace=[0.2, 60, 60, 0.3])
    (pid,) = until(lambda: house.pids("one"))
    assert children.stop(house.folder)
    assert not alive(pid)


@LINUX
def test_a_stop_leaves_none_of_a_programs_own_children_not_even_in_another_session(house):
    house.start(("one", BEARS, ""), pace=[0.2, 60, 60, 0.3])
    pids = until(lambda: len(found := house.pids("one", "bore")) == 2 and found)
    assert children.stop(house.folder)
    assert not [pid for pid in pids if alive(pid)]


@LINUX
def test_what_a_killed_program_left_behind_is_ended_before_it_starts_again(house):
    house.start(("one", BEARS, ""), ("two", STAYS, ""), pace=[0.2, 60, 60, 0.5])
    left = until(lambda: len(found := house.pids("one", "bore")) == 2 and found)
    (other,) = until(lambda: house.pids("two"))
    os.kill(house.pids("one")[0], signal.SIGKILL)
    until(lambda: len(house.pids("one")) == 2)
    assert not [pid for pid in left if alive(pid)]
    assert alive(other)
    assert house.pids("two") == [other]


@LINUX
def test_a_supervisor_that_is_killed_leaves_no_orphan(house):
    house.start(("one", STAYS, ""), ("two", DEAF, ""))
    until(lambda: house.pids("two"))
    assert len(house.pids("one")) == 1
    house.process.kill()
    house.process.wait()
    until(lambda: not [pid for name in ("one", "two") for pid in house.pids(name) if alive(pid)])
    assert children.running(house.folder) == 0


def test_a_second_start_in_the_same_folder_is_refused_with_the_pid(house):
    house.start(("one", STAYS, ""))
    until(lambda: house.pids("one"))
    with pytest.raises(ConfigError, match=rf"runs already \(pid {house.process.pid}\); stop that"):
        children.supervise(house.folder, [])


def test_a_lock_that_a_killed_supervisor_left_holds_nobody_up(tmp_path):
    (tmp_path / lock.FILE).write_text("4194304")
    assert children.running(tmp_path) == 0
    with lock.only_one(tmp_path):
        assert children.running(tmp_path) == os.getpid()
    assert children.running(tmp_path) == 0


def test_a_folder_that_never_ran_is_not_running(tmp_path):
    assert children.running(tmp_path) == 0
    assert not children.stop(tmp_path)


def test_a_log_that_grows_large_goes_on_from_the_start_beside_its_past(house):
    talks = textwrap.dedent("""
        import time
        print("x" * (11 << 20), flush=True)
        time.sleep(1)
        print("the end", flush=True)
        time.sleep(60)
    """)
    house.start(("one", talks, ""))
    log = house.folder / "logs" / "one.log"
    until(lambda: log.exists() and log.read_bytes().endswith(b"the end\n"))
    assert log.read_bytes() == b"the end\n"
    assert log.with_name("one.log.1").stat().st_size == (11 << 20) + 1


@LINUX
def test_a_disk_that_has_no_room_for_the_past_of_a_log_ends_nothing_and_the_log_goes_on(house):
    talks = (
        HEAD
        + """
note(f"started {name} {os.getpid()}")
print("x" * (11 << 20), flush=True)
note(f"printed {name}")
while not (folder / "go").exists(): time.sleep(0.05)
print("the end", flush=True)
time.sleep(60)
"""
    )
    log = house.folder / "logs" / "one.log"
    log.parent.mkdir()
    past = log.with_name("one.log.1")
    past.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        past.write_bytes(b"x")
    house.start(("one", talks, ""), ("two", STAYS, ""))
    until(lambda: house.events("printed") and log.stat().st_size == 0)
    (house.folder / "go").touch()
    until(lambda: log.read_bytes() == b"the end\n")
    assert house.process.poll() is None
    until(lambda: house.pids("two"))
    assert (len(house.pids("one")), len(house.pids("two"))) == (1, 1)


def test_a_program_whose_log_cannot_be_opened_is_put_off_said_once_and_starts_when_it_can(house):
    log = house.folder / "logs" / "one.log"
    log.mkdir(parents=True)
    house.start(("one", STAYS, ""), ("two", STAYS, ""), pace=[0.1, 0.2, 60, 5])
    until(lambda: house.pids("two"))
    time.sleep(1)
    assert not house.pids("one")
    log.rmdir()
    until(lambda: house.pids("one"))
    said = [line for line in house.end().splitlines() if "opened" in line]
    assert said == [f"one waits: {log} cannot be opened: Is a directory"]
