"""A hub's folder as its own programs find it, without certificates, without Flower, and without a SuperLink."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl_client import signed
from fl_client.config import Study, from_flat
from fl_server import entries
from fl_server import hub as hubs
from fl_server.entries import Entry


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Let folders of sockets lie in a short folder of this test's own: their paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="b") as place:
        monkeypatch.setattr(tempfile, "tempdir", place)
        yield Path(place)


@pytest.fixture
def hub(tmp_path: Path, short: Path) -> Path:
    """Return a hub's folder with two approved silos and one that is only invited."""
    folder = tmp_path / "hub"
    hubs.create(folder, hubs.new("demo", "127.0.0.1:18443"))
    signed.save(folder / "study.key", signed.new_key())
    (folder / "roster").mkdir()
    states = {"as-1": "approved", "ne-1": "approved", "or-1": "invited"}
    for name, state in states.items():
        said = {"token_sha256": "0" * 64, "expires": "2027-01-01T00:00:00+00:00"}
        entries.keep(folder, Entry(name=name, languages=(name[:2],), state=state, **said))
    return folder


@pytest.fixture
def study() -> Callable[..., Study]:
    """Return a maker of studies by name: ``study("one", rounds=3)``."""

    def make(name: str, **changes: object) -> Study:
        pairs = {key.replace("__", "."): value for key, value in changes.items()}
        return from_flat({"name": name} | pairs)

    return make
