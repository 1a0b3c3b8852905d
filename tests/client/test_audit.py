"""The record of what left: whole lines, in order, that nothing already written can be lost by."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import stat

import pytest
from typer.testing import CliRunner

from fl_client import audit, silo
from fl_client.cli import app
from fl_client.config import ConfigError


def test_an_entry_says_what_left(tmp_path):
    audit.append(tmp_path, audit.entry("/v1/fleet/push-object", b"body", "small", "3"))
    (found,) = audit.read(tmp_path)
    assert found.kind == "/v1/fleet/push-object"
    assert (found.study, found.round, found.bytes) == ("small", "3", 4)
    assert found.sha256 == hashlib.sha256(b"body").hexdigest()
    assert found.time.endswith("+00:00")


def test_the_command_counts_what_left_and_names_the_studies_it_left_for(tmp_path, monkeypatch):
    monkeypatch.setattr(silo, "read", lambda folder: None)
    audit.append(tmp_path, audit.entry("/v1/silo/time", b""))
    audit.append(tmp_path, audit.entry("/v1/fleet/push-object", b"body", "small", "3"))
    said = CliRunner().invoke(app, ["audit", "--dir", str(tmp_path)])
    assert said.exit_code == 0 and "2 messages, 4 bytes; studies: small" in said.output


def test_a_time_that_is_none_is_refused_and_any_beginning_of_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(silo, "read", lambda folder: None)
    for good in ("2026", "2026-11-21", "2026-11-21T08:30"):
        assert (
            CliRunner().invoke(app, ["audit", "--dir", str(tmp_path), "--since", good]).exit_code
            == 0
        )
    said = CliRunner().invoke(app, ["audit", "--dir", str(tmp_path), "--since", "yesterday"])
    assert said.exit_code == 2 and "--since yesterday is no time" in said.output


def test_a_line_is_json_with_the_time_first(tmp_path):
    audit.append(tmp_path, audit.entry("/x", b""))
    line = (tmp_path / audit.FILE).read_text()
    assert line.startswith(audit.TIME)
    assert list(json.loads(line)) == ["time", "study", "round", "kind", "bytes", "sha256"]


def test_the_record_is_this_users_alone(tmp_path):
    audit.append(tmp_path, audit.entry("/x", b""))
    assert stat.S_IMODE((tmp_path / audit.FILE).stat().st_mode) == 0o600


def test_entries_are_read_from_a_time_on(tmp_path):
    for day in ("2026-11-19", "2026-11-20", "2026-11-21"):
        entry = audit.entry("/x", b"")._replace(time=f"{day}T08:00:00.000+00:00")
        audit.append(tmp_path, entry)
    assert [each.time[:10] for each in audit.read(tmp_path, "2026-11-20")] == [
        "2026-11-20", "2026-11-21",
    ]  # fmt: skip
    assert len(list(audit.read(tmp_path, "2026-11-20T08:00"))) == 2
    assert len(list(audit.read(tmp_path, "2026-11-20T09"))) == 1
    assert not list(audit.read(tmp_path, "2027"))


def test_a_torn_line_loses_neither_the_one_before_nor_the_next(tmp_path):
    audit.append(tmp_path, audit.entry("/one", b""))
    with (tmp_path / audit.FILE).open("a") as stream:
        stream.write('{"time": "2026-11-21T08:00')
    audit.append(tmp_path, audit.entry("/two", b""))
    with (tmp_path / audit.FILE).open("ab") as stream:
        stream.write(b"\xff\xfe not text\n{}\n[]\n")
    audit.append(tmp_path, audit.entry("/three", b""))
    assert [each.kind for each in audit.read(tmp_path)] == ["/one", "/two", "/three"]


def test_where_there_is_no_record_nothing_has_left(tmp_path):
    assert not list(audit.read(tmp_path))


def _many(folder, name):
    for _ in range(200):
        audit.append(folder, audit.entry(name, b""))


def test_processes_that_write_at_once_do_not_mix_their_lines(tmp_path):
    start = multiprocessing.get_context("spawn").Process
    writers = [start(target=_many, args=(tmp_path, name)) for name in ("/one", "/two")]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    kinds = [each.kind for each in audit.read(tmp_path)]
    assert (kinds.count("/one"), kinds.count("/two"), len(kinds)) == (200, 200, 400)


def test_a_record_that_cannot_be_written_is_said_before_anything_starts(tmp_path):
    audit.check(tmp_path)
    with pytest.raises(ConfigError, match=r"audit\.jsonl cannot be written: No such file"):
        audit.check(tmp_path / "none")


def test_a_line_that_does_not_fit_on_the_disk_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(audit.os, "write", lambda handle, line: len(line) // 2)
    with pytest.raises(OSError, match="could not be written whole"):
        audit.append(tmp_path, audit.entry("/x", b""))
