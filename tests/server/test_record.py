"""The folder of a run: claimed once, also where a claim was killed, and what is committed stays in it."""

from __future__ import annotations

import json
import math

import pytest

from fl_client import memory
from fl_client.config import ConfigError
from fl_server import record


class Killed(BaseException):
    """The process is gone."""


def dying(at, begun=False):
    """Return a way to write files whole that dies at write number ``at``, which it may have ``begun``."""
    real, calls = memory.write_whole, []

    def write(target, content):
        calls.append(target)
        if len(calls) <= at:
            return real(target, content)
        if begun:
            target.parent.mkdir(exist_ok=True)
            memory.part(target).write_bytes(content[:9])
        raise Killed

    return write


KILLS = [
    (0, True, {"study.toml.part"}),
    (1, False, {"study.toml"}),
    (1, True, {"study.toml", "provenance.json.part"}),
]


@pytest.mark.parametrize(("at", "begun", "left"), KILLS)
def test_a_folder_whose_claim_was_killed_can_be_claimed_again(
    at, begun, left, small, tmp_path, monkeypatch
):
    folder, study = tmp_path / "run", small(tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(record, "write_whole", dying(at, begun))
        record.claim(folder, study, resume=False)
    assert {path.name for path in folder.iterdir()} == left
    record.claim(folder, study, resume=False)
    assert {path.name for path in folder.iterdir()} == {"study.toml", "provenance.json"}


def test_a_folder_with_a_study_file_of_ones_own_is_left_as_it_is(small, tmp_path):
    own = tmp_path / "study.toml"
    own.write_text("[study]  # what we agreed on\nrounds = 2\n")
    with pytest.raises(ConfigError, match="is not empty and holds no run"):
        record.claim(tmp_path, small(tmp_path), resume=False)
    assert "what we agreed on" in own.read_text()


LINES = [{"round": n, "silos": {"a": {"up": n}}} for n in range(4)]


@pytest.fixture
def recorded(tmp_path):
    for line in LINES:
        record.append(tmp_path, line)
    return tmp_path


def torn(path):
    """Damage the end of a file's last line."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\x0b")
    assert path.read_bytes().count(b"\n") == content.count(b"\n") - 1


@pytest.mark.parametrize("harm", [torn, lambda path: path.unlink()])
@pytest.mark.parametrize("name", [record.FILE, record.COPY])
def test_a_line_that_is_gone_from_one_record_stays_in_both_when_a_study_is_resumed(
    name, harm, recorded
):
    harm(recorded / name)
    assert record.lines(recorded) == LINES
    record.rewind(recorded, 3)
    assert record.lines(recorded) == LINES
    file, copy = ((recorded / each).read_bytes() for each in (record.FILE, record.COPY))
    assert file == copy and file.count(b"\n") == 4


def test_a_committed_round_that_both_records_lost_is_told_and_nothing_is_written_over(recorded):
    for name in (record.FILE, record.COPY):
        torn(recorded / name)
    before = [(recorded / name).read_bytes() for name in (record.FILE, record.COPY)]
    with pytest.raises(ConfigError, match="no line of round 3, which is committed; put back"):
        record.rewind(recorded, 3)
    assert [(recorded / name).read_bytes() for name in (record.FILE, record.COPY)] == before
    record.rewind(recorded, 2)  # as where round 3 is taken out of the journal
    assert record.lines(recorded) == LINES[:3]


def test_a_record_that_was_rewound_half_does_not_bring_back_what_was_dropped(recorded, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(record, "write_whole", dying(1))
        record.rewind(recorded, 1)
    sizes = [(recorded / name).stat().st_size for name in (record.FILE, record.COPY)]
    assert sizes[0] != sizes[1], "the kill came too early or too late"
    record.rewind(recorded, 1)
    assert record.lines(recorded) == LINES[:2]


@pytest.mark.parametrize("bits", [math.nan, math.inf])
def test_a_round_whose_bits_are_no_number_is_not_the_best(bits):
    valid = [{"as": {"bits": own, "bytes": 50.0}} for own in (9.0, bits, 8.0, 7.0)]
    lines = [{"round": n, "silos": {"a": {"valid": own}}} for n, own in enumerate(valid)]
    assert record.best(lines, ["a"]) == 3
    assert record.best(lines[:2], ["a"]) == 0


def test_each_line_of_a_record_is_parsed_once_however_often_rounds_ask_for_it(
    tmp_path, monkeypatch
):
    parsed, parse = [], json.loads
    monkeypatch.setattr(record.json, "loads", lambda text: parsed.append(text) or parse(text))
    for number in range(5):
        record.append(tmp_path, {"round": number, "silos": {}})
        for _ in range(3):
            assert [line["round"] for line in record.lines(tmp_path)] == list(range(number + 1))
    assert len(parsed) == 5


def test_what_changed_before_the_end_of_a_record_is_read_anew(tmp_path):
    def numbers():
        return [line["loss"] for line in record.lines(tmp_path)]

    lines = [{"round": number, "loss": number, "silos": {}} for number in range(4)]
    for line in lines:
        record.append(tmp_path, line)
    assert numbers() == [0, 1, 2, 3]
    record.rewind(tmp_path, 1)
    assert numbers() == [0, 1]
    for line in ({"round": 2, "loss": 7, "silos": {}}, {"round": 3, "loss": 8, "silos": {}}):
        record.append(tmp_path, line)
    assert numbers() == [0, 1, 7, 8]
    path = tmp_path / record.FILE
    path.write_bytes(path.read_bytes()[:-5])  # as a power cut leaves it
    assert numbers() == [0, 1, 7, 8], "from the copy"
    path.unlink()
    (tmp_path / record.COPY).unlink()
    assert numbers() == []
