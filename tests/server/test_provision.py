"""The coordinator's commands for who may take part, as they are typed: what they print, keep and refuse."""

from __future__ import annotations

import json
import sys

import pytest
from typer.testing import CliRunner

from fl_client import certificates, kit
from fl_server import provision, roster


def call(*arguments, **options):
    return CliRunner().invoke(provision.app, [str(argument) for argument in arguments], **options)


def done(result):
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    said = " ".join(result.stderr.split())
    assert said.startswith("error: ")
    for word in words:
        assert word in said, said


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return a new hub's folder, named by the environment; commands run beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BHASHA_HUB", str(tmp_path / "hub"))
    done(call("init", "hub", "--name", "Test", "--address", "hub.example.org:8443"))
    return tmp_path / "hub"


def invite(name="clinic", *options):
    return json.loads(done(call("invite", name, "--languages", "as,brx", "--json", *options)))


def enrol(made, path="clinic-kit.zip") -> roster.Entry:
    held = kit.read(made.parent / path)
    return roster.enrol(made, held.token, certificates.request(certificates.new_key(), held.name))


def sit_at_a_terminal(monkeypatch):
    monkeypatch.setattr(provision, "_at_a_terminal", lambda: True)


def test_init_makes_a_hub_and_says_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = done(call("init", "hub", "--name", "Test", "--address", "hub.example.org:8443"))
    for words in ("hub.example.org:8443", "root.key", "offline", "fl-server invite NAME"):
        assert words in said
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert {"hub.toml", "root.key", "root.pem", "ca.key", "ca.pem", "server.key"} < names
    again = call("init", "other", "--name", "Test", "--address", "[::1]:8443", "--json")
    assert json.loads(done(again))["listen"] == "[::1]:8443"


def test_init_refuses_to_overwrite_whatever_is_there(made):
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    again = call("init", made, "--name", "Other", "--address", "other.example.org:1")
    refused(again, "is there already and is not empty", "choose another folder")
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    thesis = made.parent / "thesis"
    thesis.write_text("years of work")
    refused(call("init", thesis, "--name", "Test", "--address", "h:1"), "choose another folder")
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("address", ["hub.example.org", "0.0.0.0:8443", "hub.example.org:0", ""])
def test_init_refuses_an_address_that_no_silo_could_reach_and_makes_nothing(address, tmp_path):
    folder = tmp_path / "hub"
    refused(call("init", folder, "--name", "Test", "--address", address), "address")
    assert not folder.exists()


def test_invite_writes_one_kit_and_puts_the_name_on_the_roster(made):
    said = invite("clinic", "--expires", "2")
    held = kit.read(made.parent / said["kit"])
    assert (held.name, held.languages, held.expires) == ("clinic", ("as", "brx"), said["expires"])
    assert held.token not in json.dumps(said)
    assert roster.one(made, "clinic").state == "invited"


def test_a_kit_goes_where_it_is_told(made, tmp_path):
    assert invite("clinic", "--out", tmp_path / "post" / "k.zip")["kit"].endswith("post/k.zip")
    assert kit.read(tmp_path / "post" / "k.zip").name == "clinic"


def test_a_name_that_is_taken_is_refused_and_no_kit_is_written(made):
    invite()
    again = call("invite", "clinic", "--languages", "as", "--out", made.parent / "second.zip")
    refused(again, "'clinic' is invited already", "eject")
    assert not (made.parent / "second.zip").exists()


def test_a_kit_never_overwrites_a_file_and_then_nobody_is_invited(made):
    (made.parent / "clinic-kit.zip").write_text("years of work")
    refused(call("invite", "clinic", "--languages", "as"), "choose another --out")
    assert (made.parent / "clinic-kit.zip").read_text() == "years of work"
    assert roster.read(made) == {}


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["Clinic", "--languages", "as"], "'Clinic' is no name for a silo"),
        (["clinic", "--languages", "Assamese"], "'Assamese' is no language code"),
        (["clinic", "--languages", ","], "languages"),
    ],
)
def test_a_name_or_language_that_cannot_be_is_one_sentence(arguments, word, made):
    refused(call("invite", *arguments), word)
    assert not list(made.parent.glob("*.zip"))


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "100000"])
def test_a_kit_can_be_given_some_hours_up_to_a_year(hours, made):
    result = call("invite", "clinic", "--languages", "as", "--expires", hours)
    assert result.exit_code == 2
    assert roster.read(made) == {}


def test_approve_shows_the_fingerprint_and_asks(made, monkeypatch):
    sit_at_a_terminal(monkeypatch)
    invite()
    entry = enrol(made)
    said = done(call("approve", "clinic", input="y\n"))
    assert certificates.short(entry.fingerprint) in said
    assert "Does the silo read the same" in said
    assert roster.one(made, "clinic").state == "approved"


def test_a_coordinator_who_hears_another_fingerprint_does_not_approve(made, monkeypatch):
    sit_at_a_terminal(monkeypatch)
    invite()
    enrol(made)
    for answer in ("n\n", "\n"):
        refused(call("approve", "clinic", input=answer), "is not approved", "eject")
    assert roster.one(made, "clinic").state == "requested"


def test_without_a_terminal_approve_wants_to_be_told_that_the_key_was_compared(made):
    invite()
    entry = enrol(made)
    refused(call("approve", "clinic"), "--yes", certificates.short(entry.fingerprint))
    assert roster.one(made, "clinic").state == "requested"
    said = json.loads(done(call("approve", "clinic", "--yes", "--json")))
    assert (said["state"], said["fingerprint"]) == ("approved", entry.fingerprint)


def test_what_stands_at_the_keyboard_is_asked_of_standard_input(monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    assert not provision._at_a_terminal()
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert provision._at_a_terminal()


def test_who_cannot_be_approved_is_told_why(made):
    refused(call("approve", "clinic", "--yes"), "not on the roster", "nobody yet")
    invite()
    refused(call("approve", "clinic", "--yes"), "has not asked yet", "fl-client join")
    enrol(made)
    done(call("approve", "clinic", "--yes"))
    refused(call("approve", "clinic", "--yes"), "approved already")
    done(call("eject", "clinic"))
    refused(call("approve", "clinic", "--yes"), "invite it again")


def test_an_ejected_name_can_be_invited_again(made):
    invite()
    assert json.loads(done(call("eject", "clinic", "--json")))["state"] == "ejected"
    assert invite("clinic", "--out", made.parent / "new.zip")["name"] == "clinic"
    refused(call("eject", "nobody"), "'nobody' is not on the roster; on it: clinic")


def test_the_roster_shows_everyone_and_no_secret(made):
    for name in ("asked", "clinic", "gone"):
        invite(name)
    enrol(made, "asked-kit.zip")
    done(call("eject", "gone"))
    listed = json.loads(done(call("roster", "--json")))
    assert [(row["name"], row["state"]) for row in listed] == [
        ("asked", "requested"),
        ("clinic", "invited"),
        ("gone", "ejected"),
    ]
    assert {key for row in listed for key in row} == {
        "name", "state", "languages", "fingerprint", "serial", "changed", "until",
    }  # fmt: skip
    table = done(call("roster", env={"COLUMNS": "160"}))
    for words in (
        "Test",
        "clinic",
        "invited",
        "as, brx",
        certificates.short(listed[0]["fingerprint"]),
    ):
        assert words in table


@pytest.mark.parametrize(
    "arguments",
    [["roster"], ["invite", "clinic", "--languages", "as"], ["approve", "x"], ["eject", "x"]],
)
def test_a_folder_that_is_no_hub_says_how_to_make_one(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(call(*arguments, "--hub", tmp_path / "nowhere"), "no", "fl-server init DIR")
    assert list(tmp_path.iterdir()) == []


def test_every_command_and_option_has_its_line_of_help():
    for command in ("init", "invite", "approve", "eject", "roster"):
        said = done(call(command, "--help", env={"COLUMNS": "200"}))
        rows = [line for line in said.splitlines() if "--" in line and "Usage" not in line]
        assert rows
        assert all(line.rstrip(" │").endswith((".", "]")) for line in rows), said


def test_a_disk_that_is_full_is_one_sentence_and_the_name_stays_free(made, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "clinic-kit.zip")

    with monkeypatch.context() as patch:
        patch.setattr(kit, "write", full)
        refused(call("invite", "clinic", "--languages", "as"), "clinic-kit.zip", "No space left")
    assert invite()["name"] == "clinic"
