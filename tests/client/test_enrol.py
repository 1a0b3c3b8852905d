"""Joining: from a kit to a certificate, over TLS on loopback, whatever breaks off in between."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import stat
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from fl_client import audit, bases, certificates, enrol, join, kit, memory, silo
from fl_client.config import ConfigError
from fl_client.silo import Folder
from fl_server import authority, hub, roster


class Town(NamedTuple):
    """A hub's folder, the address at which it answers, and a place for silos and their text."""

    hub: Path
    address: str
    place: Path

    def invite(self, name="clinic") -> Path:
        path = self.place / f"{name}.zip"
        kit.write(path, roster.invite(self.hub, name, ("as",), 1))
        return path


def found(folder: Path, address: str) -> Path:
    settings = hub.new("Test", address)
    authority.create(folder, settings)
    hub.create(folder, settings)
    return folder


def answers(folder: Path) -> type[BaseHTTPRequestHandler]:
    """Return what answers as the hub gateway does, from the roster of a hub's folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.reply("/v1/silo/enrol", lambda token: (roster.enrol(folder, token, body), 202)[1])

        def do_GET(self) -> None:
            self.reply("/v1/silo/certificate", lambda token: roster.collect(folder, token))

        def reply(self, path, act) -> None:
            try:
                assert self.path == path
                outcome = act(self.headers["bhasha-token"])
                body = b"" if outcome == 202 else outcome.certificate.encode()
                status = 200 if body else 202
            except roster.Rejected as rejected:
                status, body = 403, json.dumps({"code": rejected.code}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    return Handler


class Server(ThreadingHTTPServer):
    """A hub on loopback whose handshakes are made in each connection's own thread."""

    def __init__(self, address: tuple[str, int], handler, context: ssl.SSLContext) -> None:
        super().__init__(address, handler)
        self.context = context

    def finish_request(self, request, client_address) -> None:
        with self.context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def handle_error(self, request, client_address) -> None:
        pass


def serve(folder: Path, port: int, handler=None) -> Server:
    context = certificates.server_context(
        folder / "server.pem", folder / "server.key", folder / "root.pem"
    )
    server = Server(("127.0.0.1", port), handler or answers(folder), context)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


def end(server: Server) -> None:
    server.shutdown()
    server.server_close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@pytest.fixture
def quiet(tmp_path, monkeypatch) -> Town:
    """Return a town whose hub is down."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "as.txt").write_text("অসমীয়া ভাষা\n")
    address = f"127.0.0.1:{free_port()}"
    return Town(found(tmp_path / "hub", address), address, tmp_path)


@pytest.fixture
def town(quiet):
    """Return a town whose hub answers."""
    server = serve(quiet.hub, int(quiet.address.split(":")[1]))
    yield quiet
    end(server)


def call(*arguments):
    return CliRunner().invoke(enrol.app, [str(argument) for argument in arguments])


def joined(path: Path, *options, data="text", base="builtin:tiny"):
    return call(path, "--data", data, "--base", base, *options)


def done(result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    said = " ".join(result.stderr.split())
    assert said.startswith("error: ")
    for word in words:
        assert word in said, said


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a silo's folder holds, but for its record of what left: that grows with each message."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name != audit.FILE
    }


def test_from_a_kit_to_a_certificate(town):
    said = done(joined(town.invite(), "--json"))
    assert said["approved"] is False
    assert not enrol.collect(Path("silo"))
    entry = roster.approve(town.hub, "clinic", said["fingerprint"])
    assert enrol.collect(Path("silo"))
    at = Folder(Path("silo"))
    assert at.certificate.read_text() == entry.certificate
    client = certificates.client_context(at.root, at.certificate, at.key)
    assert client.verify_mode == ssl.CERT_REQUIRED
    assert enrol.collect(Path("silo")), "asking again is harmless"
    left = [entry.kind for entry in audit.read(Path("silo"))]
    assert left[0] == "/v1/silo/enrol" and set(left[1:]) == {"/v1/silo/certificate"}


def test_a_new_silo_folder_has_all_that_it_needs_for_its_user_alone(town):
    done(joined(town.invite(), "--lang", "as", "--json"))
    folder = Path("silo")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("silo.key", "kit.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    settings = silo.read(folder)
    assert settings.name == "clinic"
    assert settings.address == town.address
    assert settings.data == str(town.place / "text")
    assert settings.lang == "as"
    assert settings.base_sha256 == bases.sha256("builtin:tiny")
    assert (folder / "policy.toml").stat().st_size
    assert (folder / "ca.pem").read_bytes() == (town.hub / "root.pem").read_bytes()
    assert (folder / "hub_study.pub").read_text() == authority.study_public(town.hub)


def test_the_silos_private_key_never_reaches_the_hub(town):
    done(joined(town.invite(), "--json"))
    roster.approve(town.hub, "clinic")
    assert enrol.collect(Path("silo"))
    secret = Path("silo/silo.key").read_text().splitlines()[1]
    keys = {p.name for p in town.hub.rglob("*") if p.is_file() and b"PRIVATE" in p.read_bytes()}
    assert keys == {"root.key", "ca.key", "server.key", "study.key"}
    for content in [*contents(town.hub).values(), (town.place / "clinic.zip").read_bytes()]:
        assert secret.encode() not in content


def test_the_token_is_gone_once_it_has_served(town):
    path = town.invite()
    token = kit.read(path).token
    done(joined(path, "--json"))
    assert token.encode() in contents(Path("silo"))["kit.json"]
    roster.approve(town.hub, "clinic")
    assert enrol.collect(Path("silo"))
    assert not [name for name, held in contents(Path("silo")).items() if token.encode() in held]


def test_people_are_told_what_to_read_out_and_what_to_type_next(town):
    result = joined(town.invite(), "--dir", "ours")
    assert result.exit_code == 0, result.output
    entry = roster.one(town.hub, "clinic")
    for words in (
        certificates.short(entry.fingerprint),
        "coordinator",
        "fl-client start --dir ours",
    ):
        assert words in result.stdout
    roster.approve(town.hub, "clinic")
    again = joined(town.place / "clinic.zip", "--dir", "ours")
    assert "has approved this silo" in again.stdout


def test_with_the_hub_out_of_reach_all_is_kept_and_the_same_command_goes_on(quiet):
    path = quiet.invite()
    refused(joined(path), quiet.address, "cannot be reached", "kept in silo", "same command")
    before = contents(Path("silo"))
    assert {"silo.toml", "policy.toml", "silo.key", "ca.pem", "hub_study.pub", "kit.json"} == set(
        before
    )
    with pytest.raises(enrol.Unreachable):
        enrol.collect(Path("silo"))
    server = serve(quiet.hub, int(quiet.address.split(":")[1]))
    try:
        said = done(joined(path, "--json"))
    finally:
        end(server)
    assert contents(Path("silo")) == before
    assert roster.one(quiet.hub, "clinic").fingerprint == said["fingerprint"]


@pytest.mark.parametrize(
    "lost", ["silo.toml", "policy.toml", "silo.key", "ca.pem", "hub_study.pub"]
)
def test_a_join_that_broke_off_between_two_files_goes_on_with_what_is_there(lost, quiet):
    refused(joined(quiet.invite()), "cannot be reached")
    before = contents(Path("silo"))
    (Path("silo") / lost).unlink()
    refused(joined(quiet.place / "clinic.zip"), "cannot be reached")
    after = contents(Path("silo"))
    assert set(after) == set(before)
    assert {name for name in after if after[name] != before[name]} <= {lost}


def test_a_join_that_broke_off_in_its_very_first_write_goes_on(quiet):
    Path("silo").mkdir()
    begun = memory.part(Folder(Path("silo")).kit)
    begun.write_text('{"federation": "Te')  # as a power cut leaves it
    refused(joined(quiet.invite()), "cannot be reached", "kept in silo")
    assert not begun.exists() and join.recall(Path("silo")).name == "clinic"


def test_a_folder_that_holds_more_than_the_beginning_of_a_kit_is_refused(quiet):
    Path("silo").mkdir()
    for name in ("kit.json.part", "letter.txt"):
        (Path("silo") / name).write_text("ours")
    refused(joined(quiet.invite()), "is not empty and holds no silo")
    assert contents(Path("silo")) == {"kit.json.part": b"ours", "letter.txt": b"ours"}


@pytest.mark.parametrize("name", ['our "silo"', "our\\silo"])
def test_a_folder_that_flower_would_read_as_another_is_refused_before_it_is_made(quiet, name):
    refused(joined(quiet.invite(), "--dir", name), "Flower reads no path with", "another --dir")
    assert not Path(name).exists()


def test_joining_again_overwrites_nothing_that_people_changed(town):
    path = town.invite()
    done(joined(path, "--json"))
    for name in ("silo.toml", "policy.toml"):
        with (Path("silo") / name).open("a") as stream:
            stream.write("# ours\n")
    before = contents(Path("silo"))
    done(joined(path, "--json"))
    assert contents(Path("silo")) == before


def test_a_setting_that_differs_from_what_is_there_is_named_and_nothing_changes(town):
    path = town.invite()
    done(joined(path, "--json"))
    before = contents(Path("silo"))
    shutil.copytree("text", "more")
    refused(joined(path, data="more"), "silo.toml", "data", "change it there")
    refused(joined(path, "--lang", "ne"), "silo.toml", "lang")
    assert contents(Path("silo")) == before


def test_a_silo_that_is_approved_and_cannot_join_again_keeps_to_its_certificate(quiet):
    path, port = quiet.invite(), int(quiet.address.split(":")[1])
    server = serve(quiet.hub, port)
    done(joined(path, "--json"))
    roster.approve(quiet.hub, "clinic")
    assert enrol.collect(Path("silo"))
    end(server)
    refused(joined(path), "cannot be reached")
    assert enrol.approved(Path("silo"))


def test_a_hub_that_has_moved_is_asked_where_silo_toml_says_that_it_is(town):
    done(joined(town.invite(), "--json"))
    roster.approve(town.hub, "clinic")
    known = join.recall(Path("silo"))
    join.keep(Path("silo"), known.model_copy(update={"address": "127.0.0.1:1"}))  # as it was
    enrol.ask(Path("silo"))
    assert enrol.collect(Path("silo"))


def test_an_address_that_speaks_no_tls_is_told_so(quiet):
    class Plain(BaseHTTPRequestHandler):
        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", int(quiet.address.split(":")[1])), Plain)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        refused(joined(quiet.invite()), "speaks no TLS 1.3; check address in silo.toml")
    finally:
        end(server)


def test_a_kit_used_twice_is_refused(town):
    path = town.invite()
    done(joined(path, "--json"))
    refused(joined(path, "--dir", "second"), "this kit was used with another key", "coordinator")
    first = certificates.fingerprint(
        certificates.request(certificates.load_key(Path("silo/silo.key")), "clinic")
    )
    assert roster.one(town.hub, "clinic").fingerprint == first


def test_a_kit_that_expired_on_the_way_is_refused_by_the_hub(town):
    path = town.invite()
    past = "2020-01-01T00:00:00+00:00"
    roster.change(town.hub, "clinic", lambda entry: entry.model_copy(update={"expires": past}))
    refused(joined(path), "this kit has expired", "new one")


def test_a_kit_whose_name_was_invited_anew_is_refused_and_the_new_one_goes_on_with_the_same_key(
    town,
):
    old = town.invite()
    first = done(joined(old, "--json"))
    roster.eject(town.hub, "clinic")
    refused(joined(old), "ejected")
    new = town.place / "new.zip"
    kit.write(new, roster.invite(town.hub, "clinic", ("as",), 1))
    refused(joined(old), "does not know this kit")
    assert done(joined(new, "--json"))["fingerprint"] == first["fingerprint"]
    roster.approve(town.hub, "clinic", first["fingerprint"])
    assert enrol.collect(Path("silo"))


def test_a_silo_renews_its_certificate_in_its_folder_and_all_else_stays_as_it_is(town):
    said = done(joined(town.invite(), "--json"))
    first = roster.approve(town.hub, "clinic", said["fingerprint"])
    assert enrol.collect(Path("silo"))
    (Path("silo") / "studies").mkdir()
    (Path("silo") / "studies" / "memory").write_bytes(b"what is remembered")
    before = contents(Path("silo"))
    roster.eject(town.hub, "clinic")
    new = town.place / "new.zip"
    kit.write(new, roster.invite(town.hub, "clinic", ("as",), 1))
    assert done(joined(new, "--json"))["fingerprint"] == said["fingerprint"]
    second = roster.approve(town.hub, "clinic", said["fingerprint"])
    assert enrol.collect(Path("silo"))
    after = contents(Path("silo"))
    changed = {name for name in after if after[name] != before.get(name)}
    assert {"silo.pem"} <= changed <= {"silo.pem", "kit.json"}  # a kit says when it expires
    assert before.keys() == after.keys()
    assert after["silo.pem"].decode() == second.certificate != first.certificate


def test_the_kit_of_another_federation_or_name_leaves_a_silos_folder_as_it_is(town, tmp_path):
    done(joined(town.invite(), "--json"))
    before = contents(Path("silo"))
    other = Town(found(tmp_path / "other", town.address), town.address, tmp_path / "post")
    refused(joined(other.invite()), "is silo 'clinic' of 'Test'", "choose another --dir")
    refused(joined(town.invite("university")), "'university'", "choose another --dir")
    assert contents(Path("silo")) == before


def test_a_hub_that_is_not_the_kits_is_not_told_the_token(quiet, tmp_path):
    heard = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(dict(self.headers))

    impostor = found(tmp_path / "impostor", quiet.address)
    server = serve(impostor, int(quiet.address.split(":")[1]), Listener)
    try:
        refused(joined(quiet.invite()), "does not prove that it is the hub", "clock")
    finally:
        end(server)
    assert heard == []


def test_a_folder_that_is_no_silo_is_left_as_it_is(town):
    Path("silo").mkdir()
    Path("silo/thesis.txt").write_text("years of work")
    refused(joined(town.invite()), "not empty and holds no silo", "--dir")
    assert contents(Path("silo")) == {"thesis.txt": b"years of work"}
    refused(joined(town.place / "clinic.zip", "--dir", "silo/thesis.txt"), "no folder")


def test_an_empty_folder_may_become_a_silo(town):
    Path("silo").mkdir(mode=0o755)
    done(joined(town.invite(), "--json"))
    assert stat.S_IMODE(Path("silo").stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"data": "nowhere"}, ["no folder", "nowhere"]),
        ({"data": "empty"}, ["empty holds no text"]),
        ({"base": "builtin:huge"}, ["--base 'builtin:huge' does not exist", "builtin:tiny"]),
        ({"base": "./nowhere"}, ["no model folder"]),
        ({"base": "empty"}, ["no config.json"]),
    ],
)
def test_text_or_a_base_that_cannot_be_used_is_named_before_anything_is_made(options, words, town):
    Path("empty").mkdir()
    refused(joined(town.invite(), **options), *words)
    assert not Path("silo").exists()
    assert roster.one(town.hub, "clinic").state == "invited"


def test_a_language_that_is_none_is_named_before_anything_is_made(town):
    refused(joined(town.invite(), "--lang", "Assamese"), "'Assamese' is no language code")
    assert not Path("silo").exists()


def test_what_is_no_kit_is_refused_before_anything_is_made(town):
    Path("thesis.zip").write_text("years of work")
    refused(joined(Path("thesis.zip")), "no startup kit")
    refused(joined(Path("nowhere.zip")), "no file nowhere.zip")
    assert not Path("silo").exists()


def test_a_certificate_for_another_key_is_not_kept(town):
    path = town.invite()
    done(joined(path, "--json"))
    other = authority.issue(
        town.hub, certificates.request(certificates.new_key(), "clinic"), "clinic"
    )
    changed = {"state": "approved", "certificate": other.decode()}
    roster.change(town.hub, "clinic", lambda entry: entry.model_copy(update=changed))
    with pytest.raises(ConfigError, match="for another key"):
        enrol.collect(Path("silo"))
    assert not Folder(Path("silo")).certificate.exists()
    assert join.recall(Path("silo")).token


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"[]", b'{"code": ["ejected"]}', b'{"code": "x"}']
)
def test_an_answer_that_makes_no_sense_is_worth_another_try(body, quiet):
    class Odd(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(500)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            pass

    server = serve(quiet.hub, int(quiet.address.split(":")[1]), Odd)
    try:
        refused(joined(quiet.invite()), "answered 500", "try again later")
    finally:
        end(server)


def test_a_folder_without_a_certificate_and_without_a_token_wants_a_new_kit(town):
    done(joined(town.invite(), "--json"))
    folder = Path("silo")
    join.keep(folder, join.recall(folder).model_copy(update={"token": ""}))
    with pytest.raises(ConfigError, match="new kit"):
        enrol.collect(folder)
    with pytest.raises(ConfigError, match="no silo's folder"):
        enrol.collect(town.place / "nowhere")
