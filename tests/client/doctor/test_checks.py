"""The doctor's checks by themselves, where they do more than what goes wrong in a whole silo shows."""

from __future__ import annotations

import sys

import pytest

import fl_client
from fl_client import footprint, silo
from fl_client.checks import hub, pinned, room, text
from fl_client.checks.check import Check, failed, size, span
from fl_client.config import ConfigError, Study
from fl_client.machine import Gpu, Machine
from fl_client.volume import Volume


def test_an_error_says_what_was_found_before_its_semicolon_and_what_to_do_after_it():
    assert failed("x", ConfigError("a is b; do c; or d"), "e") == Check(
        "x", False, "a is b", "do c; or d"
    )
    assert failed("x", ConfigError("a is b"), "e") == Check("x", False, "a is b", "e")


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (23e6, "23 MB"),
        (141e9, "141 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_bytes_read_as_people_say_them(count, said):
    assert size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.31, "0.3 s"), (119, "119 s"), (300, "5.0 min"), (4 * 3600, "4.0 h"), (9 * 86400, "9 days")],
)
def test_times_read_as_people_say_them(seconds, said):
    assert span(seconds) == said


def machine_of(**facts: object) -> Machine:
    plain = Machine("1", "1.41.0", "2.6", "3.11", 4, 16_000_000_000, 8_000_000_000, 10**12)
    return plain._replace(**facts)


def test_gpus_are_named_with_their_memory():
    found = room.processors(machine_of(gpus=(Gpu("H200", 141_000_000_000),)))
    assert found.found == "H200 (141 GB)"


@pytest.mark.parametrize(("short", "numbers"), [(True, "bfloat16"), (False, "float32")])
def test_without_a_gpu_the_cores_are_named_and_the_numbers_that_they_train_in(
    short, numbers, monkeypatch
):
    monkeypatch.setattr(room, "multiplies_bfloat16", lambda: short)
    assert f"4 CPU cores, in {numbers} by default" in room.processors(machine_of()).found


def settings_of(**changes: object) -> silo.Settings:
    plain = {"name": "a", "federation": "b", "address": "h:1", "data": "d", "base": "builtin:tiny"}
    return silo.Settings(**plain, base_sha256="0" * 64, **changes)


def test_each_gpu_has_a_process_and_room_of_its_own():
    gpus = (Gpu("A", 40_000_000_000), Gpu("B", 24_000_000_000))
    where = room.room(machine_of(gpus=gpus), settings_of(), False)
    assert where == footprint.Room(22_800_000_000, 2, True)
    assert room.room(machine_of(gpus=gpus), settings_of(processes="1"), False).processes == 1


def test_processes_without_gpus_share_what_is_free():
    assert room.room(machine_of(), settings_of(processes="3"), False) == footprint.Room(
        8 * 10**9, 3, False
    )
    assert room.room(machine_of(), settings_of(), True).bytes == 16 * 10**9


def test_a_machine_that_no_setting_helps_is_told_so():
    what = room.sized(Study(), settings_of(), "Beng")
    found = room.memory(what, footprint.Room(10**8, 1, False))
    assert not found.ok
    assert "smaller base" in found.remedy


def test_several_processes_that_do_not_fit_may_be_fewer():
    what = room.sized(Study(), settings_of(), "Beng")
    found = room.memory(what, footprint.Room(2 * 10**9, 8, False))
    assert not found.ok
    assert "fewer processes in silo.toml" in found.remedy


def test_progress_is_told_while_text_is_read(monkeypatch):
    monkeypatch.setattr(
        text.corpus,
        "placed",
        lambda data: (("x", {"text": "a b", "lang": "as"}) for _ in range(10001)),
    )
    said: list[int] = []
    counted = text.count(settings_of(), said.append)
    assert said == [5000, 10000]
    assert counted.languages == {"as": Volume(10001, 30003)}


def test_an_answer_of_the_hub_that_is_an_error_is_red():
    assert hub.reached(ConfigError("no; ask"), "h:1") == Check("hub", False, "no", "ask")
    assert hub.uplink(ConfigError("no"), 5) == Check("uplink", False, "no", "try again later")


def test_the_base_is_looked_at_without_torch_as_far_as_that_goes(monkeypatch):
    monkeypatch.setitem(sys.modules, "fl_client.bases", None)
    monkeypatch.delattr(fl_client, "bases", raising=False)
    found = pinned.base(settings_of())
    assert not found.ok
    assert found.remedy == "pip install 'bhasha-fl[silo]'"


@pytest.mark.parametrize(
    ("changes", "ok", "words"),
    [
        ({"round_megabytes": 20}, True, "at most 20 MB of an update, at any hour"),
        ({"update_hours": "22:00-06:00"}, True, "deadline_s is under 16 h may close before"),
        ({"update_hours": "05:00-06:00", "round_megabytes": 20}, False, "at most 20 MB"),
    ],
)
def test_the_doctor_says_what_the_line_may_carry_and_when(changes, ok, words):
    found = hub.budget(settings_of(**changes), 4000)
    assert (found.ok, bool(found.remedy)) == (ok, not ok)
    assert words in found.found
