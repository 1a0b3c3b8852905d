"""When the SuperNode was heard last."""

from __future__ import annotations

import os
import time

from fl_client import heard


def test_who_was_never_heard_counts_as_not_silent(tmp_path):
    assert heard.silence(tmp_path) == 0.0


def test_silence_is_counted_from_the_last_call(tmp_path, monkeypatch):
    heard.note(tmp_path)
    heard.note(tmp_path)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 1000)
    assert 1000 <= heard.silence(tmp_path) < 1060


def test_a_clock_that_is_set_changes_nothing(tmp_path, monkeypatch):
    heard.note(tmp_path)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert heard.silence(tmp_path) < 60


def test_what_was_noted_before_the_machine_started_anew_is_no_silence(tmp_path):
    heard.note(tmp_path)
    os.utime(tmp_path / heard.FILE, (time.monotonic() + 1e6,) * 2)
    assert heard.silence(tmp_path) == 0.0


def test_a_disk_that_cannot_be_written_turns_nobody_away(tmp_path):
    heard.note(tmp_path / "no such folder")
