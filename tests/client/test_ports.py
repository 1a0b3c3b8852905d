"""Ports that are free and stay so until a program listens there."""

from __future__ import annotations

import random
import socket

import pytest

from fl_client import ports
from fl_client.config import ConfigError


def test_a_free_port_lies_where_no_connection_is_put_by_the_system(tmp_path, monkeypatch):
    known = tmp_path / "range"
    known.write_text("20000\t60999\n")
    monkeypatch.setattr(ports, "RANGE", known)
    found = [ports.free() for _ in range(50)]
    assert all(ports.LOWEST <= port < 20000 for port in found)
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
    known.write_text("1024\t65535\n")  # nothing is left below
    assert ports.free() >= ports.LOWEST


def test_a_port_that_is_held_is_passed_over_and_one_sentence_says_where_all_are(monkeypatch):
    held = ports.free()
    other = ports.free()
    drawn = iter([held, other])
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(drawn, held))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", held))
        assert ports.free() == other
        with pytest.raises(ConfigError, match="no port of loopback is free"):
            ports.free()
