"""What a line brings is on disk in the order in which it came, and a newer line is never overtaken."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from fl_client import memory
from fl_server.gateway import sink
from fl_server.gateway.sink import Sink


def written(tmp_path, pieces, mine=lambda: True):
    digest = hashlib.sha256()

    async def run():
        with (tmp_path / "x").open("ab", buffering=0) as stream:
            made = Sink(stream, digest, mine)
            for piece in pieces:
                await made.add(piece)
            await made.end()

    asyncio.run(run())
    return (tmp_path / "x").read_bytes(), digest.hexdigest()


@pytest.mark.parametrize("held", [0, 100, 10_000])
def test_pieces_are_written_and_hashed_in_turn(tmp_path, monkeypatch, held):
    monkeypatch.setattr(sink, "HELD", held)
    pieces = [bytes([n]) * n for n in range(200)]
    content = b"".join(pieces)
    assert written(tmp_path, pieces) == (content, hashlib.sha256(content).hexdigest())


def test_what_waits_is_dropped_once_a_newer_line_has_the_file(tmp_path):
    said = iter([True, True])
    assert written(tmp_path, [b"1", b"2", b"3", b"4"], lambda: next(said, False))[0] == b"12"


def test_a_full_disk_is_told_to_who_brings_more(tmp_path, monkeypatch):
    def full(stream, content):
        raise OSError("no space left")

    monkeypatch.setattr(memory, "write", full)
    with pytest.raises(OSError, match="no space"):
        written(tmp_path, [b"1"] * 10)
