"""The resident flwr-clientapp: Flower's own program, forked; and what lies where its app is unpacked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_client import bundle, forks, pulse, shim

ARGUMENTS = ["--runtime-api-address", "127.0.0.1:9", "--token", "t", "--insecure"]
CANARY = "from pathlib import Path\nPath({!r}).touch()\n"


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    ends = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)
    return found


def children(pid: int) -> list[int]:
    """Return the processes that one has started, zombies too."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


class Server:
    """A fork server of a silo's folder, and the program that Flower would start."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder, self.log = folder, folder / "log"
        self.home = forks.home(folder)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "fl_client.forks", str(self.folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._listens)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            return forks.path(self.folder).exists() and not probe.connect_ex(
                str(forks.path(self.folder))
            )

    def clientapp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Start the program as Flower does: by its name, with nothing else in PATH."""
        env = {"PATH": str(self.folder / "bin")}
        command = "flwr-clientapp"
        return subprocess.run(
            [command, *arguments], env=env, capture_output=True, text=True, check=False
        )

    def tasks(self) -> list[int]:
        return children(self.process.pid)

    def said(self) -> str:
        return self.log.read_text()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "silo")
    yield made
    made.kill()
    shutil.rmtree(forks.path(made.folder).parent, ignore_errors=True)


@pytest.fixture(scope="module")
def resident(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return one server for all tests that only look at what it refuses."""
    made = Server(tmp_path_factory.mktemp("resident") / "silo")
    made.start()
    yield made
    made.kill()
    shutil.rmtree(forks.path(made.folder).parent, ignore_errors=True)


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that stands for Flower's own, which a task must not outlive."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_a_task_is_flowers_own_program_and_outlives_the_shim(server, parent):
    server.start()
    began = server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid))
    assert (began.returncode, began.stderr) == (0, "")
    (task,) = server.tasks()
    until(lambda: "Start `flwr-clientapp` process" in server.said())
    assert server.tasks() == [task]
    assert os.getpgid(task) == os.getpgid(server.process.pid)


def test_a_task_ends_with_flowers_process_and_is_reaped(server, parent):
    server.start()
    server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid))
    (task,) = server.tasks()
    until(lambda: "Start `flwr-clientapp` process" in server.said())
    parent.kill()
    parent.wait()
    until(lambda: not server.tasks())
    assert f"task {task} ended" in server.said()


def test_a_task_dies_with_the_server(server, parent):
    server.start()
    server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid))
    (task,) = server.tasks()
    server.kill()
    until(lambda: not Path(f"/proc/{task}").exists() or "\nState:\tZ" in _status(task))


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "\nState:\tZ"


def test_several_tasks_run_at_once(server, parent):
    server.start()
    for _ in range(3):
        assert server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid)).returncode == 0
    assert len(set(server.tasks())) == 3


def test_bad_arguments_end_the_task_and_not_the_server(server):
    server.start()
    assert server.clientapp("--no-such-option").returncode == 0
    until(lambda: "ended (2)" in server.said())
    assert "unrecognized arguments" in server.said() or "required" in server.said()
    assert server.process.poll() is None


def test_the_apps_folder_is_put_there_whole_before_any_task(server):
    server.start()
    assert bundle.installed_matches(bundle.unpacked(server.home))
    assert bundle.planted(server.home) is None


def a_module(app: Path, code: str) -> None:
    (app / "fl_client").mkdir()
    (app / "fl_client" / "__init__.py").write_text(code)


def a_file_that_hides_one_of_pythons(app: Path, code: str) -> None:
    (app / "typing.py").write_text(code)


def another_reference(app: Path, code: str) -> None:
    text = (app / bundle.PROJECT).read_text()
    (app / bundle.PROJECT).write_text(text.replace("fl_client.app:app", "fl_client.apq:app"))


def half_of_it(app: Path, code: str) -> None:
    (app / bundle.LICENSE).unlink()


def a_torn_file(app: Path, code: str) -> None:
    (app / bundle.PROJECT).write_text("[project]\nname = ")


def nothing(app: Path, code: str) -> None:
    shutil.rmtree(app)
    app.mkdir()


def a_link(app: Path, code: str) -> None:
    app.rename(app.parent.parent / "elsewhere")
    app.symlink_to(app.parent.parent / "elsewhere")


def another_app(app: Path, code: str) -> None:
    other = app.with_name("someone.else.1.0.0.0badc0de")
    other.mkdir()
    (other / "typing.py").write_text(code)


PLANTS = [
    a_module, a_file_that_hides_one_of_pythons, another_reference, half_of_it, a_torn_file, nothing, a_link,
    another_app,
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.__name__)
def test_where_something_else_lies_no_task_is_started_and_none_of_it_runs(
    resident, plant, tmp_path
):
    shutil.rmtree(resident.home)
    bundle.unpack(resident.home)
    said = len(resident.said())
    plant(bundle.unpacked(resident.home), CANARY.format(str(tmp_path / "canary")))
    refused = resident.clientapp(*ARGUMENTS)
    assert refused.returncode == 1
    assert "its log says why" in refused.stderr
    assert not resident.tasks()
    assert not (tmp_path / "canary").exists()
    why = "is not what this installation put there; look at it, then remove it"
    assert why in resident.said()[said:]


def test_once_it_is_removed_tasks_start_again(server, parent):
    a_module(bundle.write(bundle.unpacked(server.home)), "")
    server.start()
    assert "no task will be started" in server.said()
    assert server.clientapp(*ARGUMENTS).returncode == 1
    shutil.rmtree(bundle.unpacked(server.home))
    assert server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid)).returncode == 0
    assert bundle.installed_matches(bundle.unpacked(server.home))


def test_an_earlier_versions_folder_may_stay(server, parent):
    old = bundle.write(bundle.unpacked(server.home).with_name("bhasha-fl.bhasha.0.0.1.0badc0de"))
    (old / bundle.PROJECT).write_text("[project]\nname = 'bhasha'\n")
    server.start()
    assert server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid)).returncode == 0


def test_packages_in_memory_win_over_what_lies_in_front_of_the_import_path(tmp_path):
    # As Flower loads an app: its folder first in sys.path, then the module by name.
    for name in ("fl_client", "strategies", "tasks"):
        (tmp_path / "app" / name).mkdir(parents=True)
        (tmp_path / "app" / name / "__init__.py").write_text(
            CANARY.format(str(tmp_path / "canary"))
        )
        (tmp_path / "app" / name / "app.py").write_text(CANARY.format(str(tmp_path / "canary")))
    code = (
        "import sys\nfrom fl_client import forks\nforks.load()\n"
        "from flwr.supercore.object_ref import load_app\n"
        f"found = load_app('fl_client.app:app', ValueError, {str(tmp_path / 'app')!r})\n"
        "import fl_client.app, strategies.adapter, tasks.task\n"
        "assert found is fl_client.app.app\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not (tmp_path / "canary").exists()


def test_without_a_server_the_program_fails_and_no_other_one_takes_its_place(server, monkeypatch):
    forks.programs(server.folder)
    monkeypatch.setattr(shim, "PATIENCE_S", 0.1)
    assert shim.main(str(forks.path(server.folder)), ARGUMENTS) == 1
    assert sorted(path.name for path in (server.folder / "bin").iterdir()) == [
        "flower-superexec", "flwr-clientapp",
    ]  # fmt: skip


def test_the_shim_waits_for_a_server_that_starts_again(server, parent):
    server.start()
    server.kill()
    env = {"PATH": str(server.folder / "bin")}
    words = ["flwr-clientapp", *ARGUMENTS, "--parent-pid", str(parent.pid)]
    with subprocess.Popen(words, env=env) as waiting:
        server.start()
        assert waiting.wait(30) == 0
    assert len(server.tasks()) == 1


def test_the_other_program_that_flower_starts_is_its_own(server):
    place = forks.programs(server.folder)
    said = subprocess.run(
        ["flower-superexec", "--help"], env={"PATH": str(place)}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert "Flower SuperExec" in said.stdout


def test_programs_and_socket_are_this_users_alone(server):
    server.start()
    assert (server.folder / "bin").stat().st_mode & 0o077 == 0
    assert (server.folder / "bin" / "flwr-clientapp").stat().st_mode & 0o077 == 0
    assert forks.path(server.folder).stat().st_mode & 0o077 == 0


def test_rubbish_on_the_socket_ends_nothing(server, parent):
    server.start()
    for rubbish in (b"", b"\xff\xfe", b"x" * (forks.LONGEST + 1)):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(forks.path(server.folder)))
            try:
                line.sendall(rubbish)
                line.shutdown(socket.SHUT_WR)
                assert line.recv(1) == b""
            except (BrokenPipeError, ConnectionResetError):
                pass
    assert server.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid)).returncode == 0
    assert len(server.tasks()) == 1


def test_the_server_shows_that_it_is_alive_until_it_is_frozen(server, tmp_path, monkeypatch):
    file = tmp_path / "forks.pulse"
    monkeypatch.setenv(pulse.FILE, str(file))
    server.start()
    beats = set()
    until(lambda: file.exists() and (beats.add(file.stat().st_mtime_ns) or len(beats) > 2))
    server.process.send_signal(signal.SIGSTOP)
    until(lambda: pulse.silence(file) > 3 * forks.REAP_S)
    assert server._listens(), "the kernel takes connections for it"


def test_a_group_signal_ends_server_and_tasks(tmp_path, parent):
    made = Server(tmp_path / "silo")
    command = [sys.executable, "-m", "fl_client.forks", str(made.folder)]
    with made.log.open("ab") as log:
        made.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    until(made._listens)
    made.clientapp(*ARGUMENTS, "--parent-pid", str(parent.pid))
    (task,) = made.tasks()
    os.killpg(made.process.pid, signal.SIGTERM)
    made.process.wait(10)
    until(lambda: not Path(f"/proc/{task}").exists() or "\nState:\tZ" in _status(task))
    shutil.rmtree(forks.path(made.folder).parent)
