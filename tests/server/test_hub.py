"""A hub's settings as the coordinator edits them, and where its Unix socket lies."""

from __future__ import annotations

import os
import stat

import pytest

from fl_client.config import ConfigError
from fl_server import hub
from fl_server.hub import Hub


def test_settings_that_were_written_are_read_again(tmp_path):
    made = hub.new("ভাষা জাল", "hub.example.org:8443")
    hub.create(tmp_path, made)
    assert hub.read(tmp_path) == made
    with pytest.raises(ConfigError, match="not overwritten"):
        hub.create(tmp_path, made)


def test_every_key_stands_in_the_file_under_a_comment(tmp_path):
    hub.create(tmp_path, hub.new("Test", "hub.example.org:8443"))
    lines = hub.path(tmp_path).read_text().splitlines()
    for key in Hub.model_fields:
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert lines[at - 1].startswith("# ")


@pytest.mark.parametrize(
    ("public", "listen"),
    [
        ("hub.example.org:8443", "0.0.0.0:8443"),
        ("192.0.2.7:443", "0.0.0.0:443"),
        ("[2001:db8::7]:443", "[::]:443"),
        ("localhost:8443", "127.0.0.1:8443"),
        ("127.0.0.2:8443", "127.0.0.2:8443"),
        ("[::1]:8443", "[::1]:8443"),
    ],
)
def test_a_hub_listens_on_the_port_of_its_address_and_on_loopback_only_where_that_is_its_address(
    public, listen
):
    assert hub.new("Test", public).listen == listen


@pytest.mark.parametrize(
    ("name", "public", "words"),
    [
        ("Test", "hub.example.org", "host:port"),
        ("Test", "hub.example.org:99999", "host:port"),
        ("Test", "https://hub.example.org:8443", "no usable host"),
        ("Test", "300.1.1.1:8443", "no usable host"),
        ("Test", "::1:8443", "no usable host"),
        ("Test", "0.0.0.0:8443", "public address"),
        ("Test", "[::]:8443", "public address"),
        ("Test", "hub.example.org:0", "public address"),
        ('a" b', "hub.example.org:8443", "no name for a federation"),
        ("", "hub.example.org:8443", "no name for a federation"),
        ("x" * 61, "hub.example.org:8443", "at most 60"),
    ],
)
def test_a_name_or_address_that_cannot_be_is_one_plain_sentence(name, public, words):
    with pytest.raises(ConfigError, match=words) as refusal:
        hub.new(name, public)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_is_no_hub_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="fl-server init DIR"):
        hub.read(tmp_path / "nowhere")


def test_a_pull_is_never_held_longer_than_a_silo_waits(tmp_path):
    hub.create(tmp_path, hub.new("Test", "hub.example.org:8443"))
    path = hub.path(tmp_path)
    path.write_text(path.read_text().replace("hold_s = 20.0", "hold_s = 28.0"))
    with pytest.raises(ConfigError, match="hold_s=28"):
        hub.read(tmp_path)


def test_the_socket_has_a_short_path_in_a_folder_for_this_user_alone(tmp_path):
    deep = tmp_path / ("deep" * 20) / ("er" * 40)
    path = hub.socket(deep)
    try:
        assert len(os.fsencode(path)) <= 107
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert hub.socket(deep / "..") != path
        assert hub.socket(deep / "x" / "..") == path
    finally:
        for used in (path, hub.socket(deep / "..")):
            used.parent.rmdir()
