"""A silo's settings as its people edit them, in a file with comments, and where its sockets lie."""

from __future__ import annotations

import os
import stat
import tempfile
import tomllib

import pytest

from fl_client import silo, sockets
from fl_client.config import ConfigError
from fl_client.silo import Folder, Settings

SETTINGS = Settings(
    name="clinic",
    federation="ভাষা জাল",
    address="hub.example.org:8443",
    data='/text/"new" \\ অসম\x7f\t',
    base="builtin:tiny",
    base_sha256="0" * 64,
)


def test_settings_that_were_written_are_read_again_whatever_a_folder_is_called(tmp_path):
    silo.create(tmp_path, SETTINGS)
    assert silo.read(tmp_path) == SETTINGS


def test_every_key_stands_in_the_file_under_a_comment(tmp_path):
    silo.create(tmp_path, SETTINGS)
    lines = Folder(tmp_path).settings.read_text().splitlines()
    for key in Settings.model_fields:
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert lines[at - 1].startswith("# ")
    assert all(len(line) <= 100 for line in lines if line.startswith("#"))


def test_settings_are_never_overwritten_by_new_ones(tmp_path):
    silo.create(tmp_path, SETTINGS)
    before = Folder(tmp_path).settings.read_bytes()
    with pytest.raises(ConfigError, match="not overwritten"):
        silo.create(tmp_path, SETTINGS)
    assert Folder(tmp_path).settings.read_bytes() == before


def test_a_changed_setting_leaves_the_other_lines_and_what_people_wrote_beside_them(tmp_path):
    silo.create(tmp_path, SETTINGS)
    path = Folder(tmp_path).settings
    path.write_text(path.read_text().replace("threads = 0", "# ours\nthreads = 3 # of 4"))
    before = path.read_text().splitlines()
    settings = silo.read(tmp_path).model_copy(update={"uplink_bytes_s": 1_000_000})
    silo.write_settings(tmp_path, settings)
    after = path.read_text().splitlines()
    assert [(a, b) for a, b in zip(before, after, strict=True) if a != b] == [
        ("uplink_bytes_s = 0", "uplink_bytes_s = 1000000")
    ]
    assert silo.read(tmp_path) == settings
    assert settings.threads == 3


@pytest.mark.parametrize(("lang", "fine"), [("as", True), ("mni-Beng", True), ("Assamese", False)])
def test_the_language_of_text_that_names_none_is_a_code_as_it_is_when_joining(lang, fine, tmp_path):
    silo.create(tmp_path, SETTINGS)
    path = Folder(tmp_path).settings
    path.write_text(path.read_text().replace('lang = ""', f'lang = "{lang}"'))
    if fine:
        assert silo.read(tmp_path).lang == lang
        return
    with pytest.raises(ConfigError, match="'Assamese' is no language code; use one such as as"):
        silo.read(tmp_path)


def test_a_setting_that_was_left_out_is_added_where_it_changes(tmp_path):
    silo.create(tmp_path, SETTINGS)
    path = Folder(tmp_path).settings
    path.write_text(path.read_text().replace("uplink_bytes_s = 0\n", ""))
    assert silo.read(tmp_path) == SETTINGS
    changed = SETTINGS.model_copy(update={"uplink_bytes_s": 5})
    silo.write_settings(tmp_path, changed)
    assert silo.read(tmp_path) == changed


def test_settings_that_do_not_change_leave_the_file_alone(tmp_path):
    silo.create(tmp_path, SETTINGS)
    before = Folder(tmp_path).settings.stat()
    silo.write_settings(tmp_path, SETTINGS)
    assert Folder(tmp_path).settings.stat().st_ino == before.st_ino


def test_a_number_of_processes_may_be_written_as_a_number(tmp_path):
    silo.create(tmp_path, SETTINGS)
    path = Folder(tmp_path).settings
    path.write_text(path.read_text().replace('processes = "auto"', "processes = 2"))
    assert silo.read(tmp_path).processes == "2"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("threads = -1", ["threads=-1"]),
        ("processes = 'many'", ["processes='many'"]),
        ("processes = 0", ["processes"]),
        ("checkpoint_s = 0", ["checkpoint_s=0"]),
        ("checkpoint_s = inf", ["checkpoint_s=inf"]),
        ("gateway_port = 65536", ["gateway_port=65536"]),
        ("address = 'hub'", ["address", "host:port"]),
        ("name = 'Clinic'", ["name", "'Clinic'", "a-z"]),
        ("base_sha256 = 'abc'", ["base_sha256='abc'"]),
        ("thread = 1", ["'thread'", "did you mean 'threads'"]),
        ("xyzzy = 1", ["'xyzzy'", "it has name"]),
        ("threads = ", ["cannot be read"]),
    ],
)
def test_a_setting_that_cannot_be_is_one_plain_sentence(line, words, tmp_path):
    silo.create(tmp_path, SETTINGS)
    path = Folder(tmp_path).settings
    key = line.split(" ")[0]
    kept = [held for held in path.read_text().splitlines() if not held.startswith(f"{key} =")]
    path.write_text("\n".join([*kept, line]) + "\n")
    with pytest.raises(ConfigError) as refusal:
        silo.read(tmp_path)
    for word in [*words, "silo.toml"]:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_missing_setting_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match="fl-client join KIT"):
        silo.read(tmp_path)
    silo.create(tmp_path, SETTINGS)
    path = Folder(tmp_path).settings
    path.write_text(path.read_text().replace('base = "builtin:tiny"', ""))
    with pytest.raises(ConfigError, match="'base' is missing"):
        silo.read(tmp_path)


def test_the_comments_are_no_settings(tmp_path):
    silo.create(tmp_path, SETTINGS)
    assert tomllib.loads(Folder(tmp_path).settings.read_text()) == SETTINGS.model_dump()


@pytest.fixture
def short_temporary(monkeypatch):
    with tempfile.TemporaryDirectory() as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield place


def test_a_socket_has_a_short_path_of_its_own_in_a_folder_for_this_user_alone(
    short_temporary, tmp_path
):
    deep = tmp_path / ("deep" * 20) / ("er" * 40)
    path = sockets.path(deep, "work")
    assert len(os.fsencode(path)) <= 107
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path == sockets.path(deep, "work")
    assert path != sockets.path(deep, "forks")
    assert path.parent != sockets.path(tmp_path, "work").parent


def test_a_folder_of_sockets_that_others_may_enter_is_refused(short_temporary, tmp_path):
    folder = sockets.path(tmp_path, "work").parent
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="not this user's alone"):
        sockets.path(tmp_path, "work")


def test_a_link_in_place_of_the_folder_of_sockets_is_refused(short_temporary, tmp_path):
    folder = sockets.path(tmp_path, "work").parent
    folder.rmdir()
    target = tmp_path / "elsewhere"
    target.mkdir(mode=0o700)
    folder.symlink_to(target)
    with pytest.raises(ConfigError, match="not this user's alone"):
        sockets.path(tmp_path, "work")
