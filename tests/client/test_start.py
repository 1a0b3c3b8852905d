"""``fl-client start``: which programs a silo consists of, and what it leaves for them to tell."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time

import pytest
from click import ClickException
from flwr.common.config import parse_config_args
from typer.testing import CliRunner

from fl_client import children, contact, forks, greeting, heard, machine, ports, pulse, start
from fl_client.silo import Settings, create


@pytest.fixture
def silo(tmp_path, monkeypatch):
    """Return a silo's folder that may start, and a list of what would be supervised."""
    said = {"name": "clinic-a", "federation": "demo", "address": "127.0.0.1:1", "data": "text"}
    said |= {"base": "builtin:tiny", "base_sha256": "b" * 64, "uplink_bytes_s": 500_000}
    create(tmp_path, Settings(**said))
    found = []
    monkeypatch.setattr(children, "supervise", lambda *given, **_: found.append(given))
    monkeypatch.setattr(start.enrol, "approved", lambda folder: True)
    monkeypatch.setattr(start.policy, "read", lambda folder: None)
    monkeypatch.setattr(machine, "gpus_seen", lambda: ())
    return tmp_path, found


def test_a_silo_that_starts_leaves_what_its_machine_is_for_the_gateway_to_tell(silo):
    folder, found = silo
    ran = CliRunner().invoke(start.app, ["start", "--dir", str(folder)])
    assert ran.exit_code == 0, ran.output
    assert greeting.recall(folder)["cpus"] == machine.cpus()
    assert greeting.recall(folder)["uplink_bytes_s"] == 500_000
    ((where, family),) = found
    assert where == folder
    assert [child.name for child in family] == ["gateway", "workers", "forks", "supernode"]


def test_a_silo_whose_clock_is_a_day_off_says_so_and_starts(silo, monkeypatch):
    folder, found = silo
    monkeypatch.setattr(contact, "clock", lambda folder, patience_s: 86400.0)
    ran = CliRunner().invoke(start.app, ["start", "--dir", str(folder)])
    assert "this machine's clock is 24 h ahead of the hub's" in ran.output
    assert len(found) == 1


def test_a_silo_whose_hub_is_away_says_so_and_starts(silo, monkeypatch):
    folder, found = silo

    def away(folder, patience_s):
        raise contact.Unreachable("the hub cannot be reached")

    monkeypatch.setattr(contact, "clock", away)
    ran = CliRunner().invoke(start.app, ["start", "--dir", str(folder)])
    assert "the hub cannot be reached" in ran.output
    assert len(found) == 1


def test_a_silo_that_waits_for_approval_runs_is_the_only_one_and_can_be_stopped(silo):
    folder, _ = silo
    waits = """
import sys
from pathlib import Path
from fl_client import audit, enrol, policy, start
enrol.collect = lambda folder: False
policy.read = audit.check = lambda folder: None
start.start(Path(sys.argv[1]))
"""
    command = [sys.executable, "-c", waits, str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        assert "has not approved this silo yet" in first.stderr.readline()
        assert children.running(folder) == first.pid
        second = subprocess.run(command, capture_output=True, text=True)
        assert f"runs already (pid {first.pid}); stop that first" in second.stderr
        assert children.stop(folder, 20)
        assert first.wait() == 0
    assert not children.running(folder)


def test_a_silo_that_does_not_run_says_so(silo):
    folder, _ = silo
    assert "does not run" in CliRunner().invoke(start.app, ["status", "--dir", str(folder)]).output
    assert start.standing(folder)["pid"] is None


def test_the_supernode_alone_is_started_anew_where_it_falls_silent(silo, monkeypatch):
    folder, _ = silo
    family = start.family(folder, start.silo.read(folder), ports.free())
    assert [child.silence is not None for child in family] == [False, False, False, True]
    heard.note(folder)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    assert family[-1].silence() > children.PACE.silent_s


def test_a_gateway_that_is_silent_is_started_anew_sooner_than_the_supernode_that_it_hears(silo):
    folder, _ = silo
    family = start.family(folder, start.silo.read(folder), ports.free())
    assert [child.longer_s for child in family] == [0, 0, 0, start.DEAF_S]
    assert start.DEAF_S > 30 + pulse.EVERY_S  # a heartbeat's pause, and a beat's


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\x1bb", 'a\\"'])
def test_a_folder_that_flower_would_read_as_another_is_refused_before_anything_starts(
    silo, name, monkeypatch
):
    folder, found = silo
    folder = shutil.copytree(folder, folder / name)
    assert as_flower_reads(f'silo="{folder}"') != {"silo": str(folder)}
    monkeypatch.setattr(start.enrol, "approved", lambda folder: pytest.fail("it waits for the hub"))
    ran = CliRunner().invoke(start.app, ["start", "--dir", str(folder)])
    assert ran.exit_code == 2 and not found
    assert "cannot be a silo's folder: Flower reads no path with" in ran.output
    assert "move it, or choose another --dir" in ran.output


@pytest.mark.parametrize(
    "name", ["a b", "a\tb", "it's", "a=b", "a#b", "ক", "a,b;c", "a.toml", "[a]", "~", "$HOME"]
)
def test_a_folder_of_any_other_name_reaches_the_silo_as_it_is(silo, name):
    folder, _ = silo
    folder = shutil.copytree(folder, folder / name)
    start.silo.check_path(folder)
    words = start.family(folder, start.silo.read(folder), ports.free())[-1].command
    said = words[words.index("--node-config") + 1]
    assert as_flower_reads(said) == {"silo": str(folder)}


def as_flower_reads(said: str) -> dict[str, str]:
    try:
        return parse_config_args([said])
    except ClickException:
        return {}


def test_the_supernode_finds_the_programs_of_ours_alone_and_listens_on_loopback(silo):
    folder, _ = silo
    port = ports.free()
    supernode = start.family(folder, start.silo.read(folder), port)[-1]
    assert supernode.env["PATH"] == str(forks.programs(folder))
    words = supernode.command
    assert words[words.index("--superlink") + 1] == f"127.0.0.1:{port}"
    assert words[words.index("--host") + 1] == "127.0.0.1"
