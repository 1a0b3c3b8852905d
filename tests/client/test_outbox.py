"""A silo that is asked for the same training again answers from its outbox, while every byte of it is whole."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest

from fl_client import outbox, parcels, stock
from fl_client.config import Study
from fl_client.messages import Order
from fl_client.site import Place
from fl_client.workers import Job, Result

JOB = Job(Study(), Place(), Order(after=1), {"x": np.ones(3, np.float32)})
FOUND = Result({"u": np.arange(4, dtype=np.float32)}, {"loss": 0.5}, {"silo": "a", "round": 2})


@pytest.fixture
def kept(tmp_path):
    return outbox.keep(tmp_path, outbox.key(JOB), FOUND, lambda _: None)


def test_the_answer_is_found_by_all_that_it_depends_on(kept, tmp_path):
    assert outbox.find(tmp_path, outbox.key(JOB)) == kept
    others = (
        JOB._replace(order=Order(after=2)),
        JOB._replace(order=Order(after=1, lost=1)),
        JOB._replace(received={"x": np.zeros(3, np.float32)}),
        JOB._replace(study=Study(seed=8)),
    )
    assert [outbox.find(tmp_path, outbox.key(other)) for other in others] == [None] * 4


@pytest.mark.parametrize("place", ["answer", "parcel"])
def test_a_flipped_bit_is_never_answered_with(kept, tmp_path, place):
    file = tmp_path / outbox.FILE if place == "answer" else parcels.path(tmp_path, kept.parcel)
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert outbox.find(tmp_path, outbox.key(JOB)) is None
    file.write_bytes(whole)
    assert outbox.find(tmp_path, outbox.key(JOB)) == kept


def test_a_parcel_that_the_disk_cannot_read_is_not_answered_with(
    kept, tmp_path, monkeypatch, caplog
):
    opened, file = Path.open, parcels.path(tmp_path, kept.parcel)

    def sector(path, *mode, **more):
        if path == file:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *mode, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", sector)
        assert outbox.find(tmp_path, outbox.key(JOB)) is None
    assert f"{file} cannot be read: Input/output error" in caplog.text
    assert outbox.find(tmp_path, outbox.key(JOB)) == kept


def test_after_a_clock_that_ran_ahead_was_set_right_an_answer_still_has_its_parcel(tmp_path):
    ahead = time.time() + 365 * 86400
    for number in range(stock.KEPT):
        old = parcels.keep(tmp_path, {"u": np.full(3, number, np.float32)})
        os.utime(parcels.path(tmp_path, old), (ahead, ahead))
    found = outbox.keep(tmp_path, outbox.key(JOB), FOUND, lambda _: None)
    assert outbox.find(tmp_path, outbox.key(JOB)) == found
    files = [*tmp_path.glob("*.safetensors")]
    assert len(files) == stock.KEPT
    assert sum(file.stat().st_mtime == pytest.approx(ahead) for file in files) == stock.KEPT - 1
