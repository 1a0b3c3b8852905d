"""A silo greets its hub, however late that can be reached, and says no more than what was kept."""

from __future__ import annotations

import json
import time

import pytest

from fl_client import audit, greeting, ports, volume
from fl_client.gateway import greet, link
from fl_client.gateway.link import Patience
from fl_client.volume import Volume

PATH = "/v1/silo/hello"
FACTS = {"version": "0.1.0", "cpus": 4, "uplink_bytes_s": 5}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(greet, "PATIENT", Patience(0.1, 0.3))
    monkeypatch.setattr(greet, "AGAIN_S", 0.05)
    monkeypatch.setattr(link, "AGAIN_S", 0.05)


def again(clinic):
    clinic.stop()
    clinic.start()


def greetings(hub):
    return [json.loads(got.body) for got in hub.got if got.path == PATH]


def until(true):
    ends = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


def test_a_gateway_tells_once_what_was_kept_with_the_text_and_the_settings(hub, clinic):
    greeting.keep(clinic.folder, FACTS)
    volume.keep(clinic.folder, {"as": Volume(3, 99)})
    again(clinic)
    until(lambda: greetings(hub))
    assert greetings(hub) == [
        FACTS | {"languages": {"as": {"rows": 3, "bytes": 99}}, "processes": 0}
    ]
    assert [entry.kind for entry in clinic.record()] == [PATH]


def test_a_silo_whose_policy_lets_no_counts_by_language_out_does_not_greet_with_them(hub, clinic):
    greeting.keep(clinic.folder, FACTS | {"languages": {"ne": {"rows": 1, "bytes": 9}}})
    volume.keep(clinic.folder, {"as": Volume(3, 99)})
    clinic.allow('"languages", ', "")
    again(clinic)
    until(lambda: greetings(hub))
    assert greetings(hub) == [FACTS | {"processes": 0}]


def test_a_hub_that_was_away_when_the_silo_started_is_greeted_when_it_is_there(hub, clinic, world):
    greeting.keep(clinic.folder, FACTS)
    world.run(hub.close())
    again(clinic)
    time.sleep(0.3)
    assert not list(audit.read(clinic.folder)), "nothing has left"
    world.run(hub.open())
    until(lambda: greetings(hub))


@pytest.mark.parametrize(
    ("behind_s", "words"), [(86400, "24 h ahead of"), (-86400, "24 h behind"), (0, "")]
)
def test_a_silo_whose_clock_is_off_reads_it_in_its_log(hub, clinic, caplog, behind_s, words):
    greeting.keep(clinic.folder, FACTS)
    hub.answers[PATH] = lambda _: (200, json.dumps({"time": time.time() - behind_s}).encode())
    again(clinic)
    until(lambda: greetings(hub))
    if words:
        until(lambda: f"this machine's clock is {words} the hub's" in caplog.text)
    else:
        time.sleep(0.2)
        assert "clock" not in caplog.text


@pytest.mark.parametrize("body", [b"", b"[]", b'{"time": "noon"}'])
def test_a_hub_that_does_not_say_what_time_it_is_is_greeted_all_the_same(hub, clinic, caplog, body):
    greeting.keep(clinic.folder, FACTS)
    hub.answers[PATH] = lambda _: (200, body)
    again(clinic)
    until(lambda: greetings(hub))
    again(clinic)  # the gateway ends well
    assert "clock" not in caplog.text


def test_a_hub_that_says_503_is_greeted_again_and_one_that_says_400_is_not(hub, clinic):
    greeting.keep(clinic.folder, FACTS)
    said = iter([503, 503, 400])
    hub.answers[PATH] = lambda _: (next(said), b"")
    again(clinic)
    until(lambda: len(greetings(hub)) == 3)
    time.sleep(0.3)
    assert len(greetings(hub)) == 3


@pytest.mark.parametrize("text", [None, "", "[]", "no JSON"])
def test_where_nothing_is_known_nothing_is_said(hub, clinic, text):
    if text is not None:
        (clinic.folder / greeting.FILE).write_text(text)
    again(clinic)
    time.sleep(0.2)
    assert not hub.got


def test_a_gateway_ends_while_it_tries(hub, clinic, world):
    greeting.keep(clinic.folder, FACTS)
    world.run(hub.close())
    again(clinic)
    again(clinic)
    assert ports.answers(clinic.port)()
