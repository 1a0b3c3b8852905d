"""``fl-server start``: which programs a hub consists of, and what it refuses before it starts one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND
from typer.testing import CliRunner

from fl_client import children, lock, pulse
from fl_server import hub as hubs
from fl_server import start
from fl_server.cli import app


@pytest.fixture
def supervised(monkeypatch):
    """Return what would be supervised, in place of supervising it."""
    found = []
    monkeypatch.setattr(children, "supervise", lambda *given: found.append(given))
    return found


def listening(hub, **changes):
    path = hubs.path(hub)
    lines = path.read_text().splitlines()
    for key, value in changes.items():
        lines = [f"{key} = {value}" if line.startswith(f"{key} =") else line for line in lines]
    path.write_text("\n".join(lines) + "\n")


def typed(hub):
    return CliRunner().invoke(app, ["start", "--hub", str(hub)])


def test_a_hub_is_a_superlink_the_gateway_before_it_and_the_queue_in_this_order(hub):
    family = start.family(hub, 4711)
    assert [child.name for child in family] == ["superlink", "gateway", "runner"]
    assert all(
        "4711" in child.command and str(hub) in child.command[-3:] + [str(hub)] for child in family
    )


def test_flowers_superlink_listens_on_loopback_installs_nothing_and_calls_nobody(hub):
    superlink = start.family(hub, 4711)[0]
    words = superlink.command
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert "--disable-runtime-dependency-installation" in words
    assert superlink.env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert superlink.env["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_our_programs_come_first_and_nothing_beside_the_hub_can_shadow_a_package(hub):
    for child in start.family(hub, 4711):
        assert child.env[hubs.WITHIN] == str(hub)
    for child in start.family(hub, 4711)[1:]:
        assert child.env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    for child in start.family(hub, 4711)[1:]:
        assert child.command[:3] == [sys.executable, "-P", "-m"]


def test_a_superlink_starts_our_program_and_superexec_and_no_other_of_flowers(hub):
    place = Path(start.family(hub, 4711)[0].env["PATH"])
    assert place == hub / "bin" and place.stat().st_mode & 0o077 == 0
    flowers = set(TASK_TYPE_TO_COMMAND.values())
    assert {file.name for file in place.iterdir()} == flowers | {"flower-superexec"}
    assert "fl_server.serverapp" in (place / "flwr-serverapp").read_text()
    for name in flowers - {"flwr-serverapp"}:
        assert subprocess.run([place / name]).returncode == 1


LOADS = """
import os, sys
from pathlib import Path
from flwr.supercore.object_ref import load_app
from fl_server import serverapp
apps = Path(os.environ["FLWR_HOME"]) / "apps"
serverapp.shut(apps)
try:
    print(load_app(sys.argv[1], LookupError, str(apps / "other.app.1.0.0.0123abcd")))
except ImportError as error:
    print(f"refused: {error}")
"""


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("theirs:app", "refused: "),
        ("inner.theirs:app", "refused: "),
        ("fl_server.app:app", "<flwr"),
    ],
)
def test_nothing_of_an_app_that_is_handed_to_the_superlink_runs(hub, named, said):
    place = hub / "flower" / "apps" / "other.app.1.0.0.0123abcd"
    for module in ("theirs.py", "inner/theirs.py", "fl_server/app.py", "numpy.py"):
        (place / module).parent.mkdir(parents=True, exist_ok=True)
        (place / module).write_text(f"open({str(hub / 'ran')!r}, 'w')\napp = 1\n")
    ran = subprocess.run(
        [sys.executable, "-P", "-c", LOADS, named], capture_output=True, text=True, check=True,
        env=os.environ | {"FLWR_HOME": str(hub / "flower")},
    )  # fmt: skip
    assert ran.stdout.startswith(said), ran.stderr
    assert not (hub / "ran").exists()


def test_the_gateway_counts_as_started_once_its_socket_answers(hub):
    ready = start.family(hub, 4711)[1].ready
    assert not ready()
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(hubs.socket(hub)))
        assert not ready(), "a file that a killed gateway left"
        served.listen()
        assert ready()


def test_a_superlink_that_answers_no_request_is_started_anew_and_our_programs_beat_by_themselves(
    hub, monkeypatch
):
    monkeypatch.setattr(pulse, "EVERY_S", 0.0)
    monkeypatch.setattr(pulse, "ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # as the kernel does for a frozen one
        superlink, *ours = start.family(hub, taken.getsockname()[1])
        assert superlink.ready()
        first = superlink.silence()
        time.sleep(0.2)
        assert superlink.silence() >= first + 0.2
    assert [child.silence for child in ours] == [None, None]


def test_the_port_of_the_superlink_is_that_of_the_settings_or_a_free_one(hub, supervised):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    listening(hub, listen='"127.0.0.1:0"')
    assert typed(hub).exit_code == 0
    listening(hub, superlink_port=port)
    assert typed(hub).exit_code == 0
    (folder, first), (_, second) = supervised
    assert folder == hub
    ports = [children_[1].command[-1] for children_ in (first, second)]
    assert ports[1] == str(port)
    assert int(ports[0]) > 1024


def refused(hub, supervised):
    ran = typed(hub)
    assert ran.exit_code == 2, ran.output
    assert ran.stderr.startswith("error: ") and ran.stderr.count("\n") == 1
    assert not supervised
    return ran.stderr


def test_a_folder_that_is_no_hub_is_refused(tmp_path, supervised):
    assert "`fl-server init DIR` makes a hub's folder" in refused(tmp_path, supervised)


def test_a_hub_that_runs_already_is_refused_with_its_pid(hub, supervised):
    with lock.only_one(hub):
        assert f"runs already (pid {os.getpid()}); stop that first" in refused(hub, supervised)


def test_a_port_that_is_taken_is_refused_with_where_to_change_it(hub, supervised):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listening(hub, listen=f'"{address}"')
        assert f"nothing can listen on {address}" in (said := refused(hub, supervised))
    assert "change listen in hub.toml" in said
