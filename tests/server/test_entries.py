"""The roster on disk: what is written is what is read, one program changes it at a time, damage is named."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fl_client.config import ConfigError
from fl_server import entries
from fl_server.entries import Entry

ROOT = Path(__file__).parents[2]
SAID = {"token_sha256": "0" * 64, "expires": "2027-01-01T00:00:00+00:00"}


def entry(name, **changes):
    return Entry(**{"name": name, "languages": ("as",), "state": "invited"} | SAID | changes)


def test_an_entry_is_read_back_with_the_time_of_its_change_and_by_this_user_alone(hub):
    kept = entries.keep(hub, entry("new-1", fingerprint="f"))
    assert entries.find(hub, "new-1") == kept
    assert kept.changed and kept == entry("new-1", fingerprint="f", changed=kept.changed)
    assert stat.S_IMODE((hub / "roster" / "new-1.json").stat().st_mode) == 0o600


def test_names_are_sorted_and_none_where_there_is_no_roster(hub, tmp_path):
    assert entries.names(hub) == ["as-1", "ne-1", "or-1"]
    assert entries.names(tmp_path / "nowhere") == []


@pytest.mark.parametrize("name", ["nobody", "", "../hub", "AS-1", "as-1\n", "a" * 41])
def test_what_is_no_name_or_not_there_is_nobody(hub, name):
    assert entries.find(hub, name) is None


def test_an_entry_that_changed_on_disk_is_seen_at_once(hub):
    assert entries.find(hub, "as-1").state == "approved"
    entries.keep(hub, entry("as-1", state="ejected"))
    assert entries.find(hub, "as-1").state == "ejected"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is damaged: 'name' is missing; put back a copy"),
        ('{"name": "as', "is damaged: it holds no JSON object; put back a copy"),
        ("\0", "is damaged: it holds no JSON object; put back a copy"),
        ('["as-1"]', "is damaged: it holds no JSON object; put back a copy"),
        (entry("ne-1").model_dump_json(), "is the entry of 'ne-1'; put back a copy"),
    ],
)
def test_a_damaged_entry_is_named(hub, content, said):
    (hub / "roster" / "as-1.json").write_text(content)
    with pytest.raises(ConfigError, match="as-1.json " + said):
        entries.find(hub, "as-1")


def test_one_program_changes_the_roster_at_a_time(hub):
    script = "import sys\nfrom pathlib import Path\nfrom fl_server import entries\n"
    script += 'print("here", flush=True)\nwith entries.locked(Path(sys.argv[1])): print("in")'
    command = [sys.executable, "-c", script, str(hub)]
    with entries.locked(hub):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout.readline() == "here\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    assert process.communicate(timeout=60)[0] == "in\n"
