"""A hub with its real gateway on loopback, and silos that have joined it, for the doctor to look at."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from fl_client import certificates, join, ports
from fl_client.silo import Folder
from fl_server import authority, hub, roster
from fl_server.gateway import gate, server

NUMBERS = count(1)
LETTERS = "কখগঘঙচছজঝঞটঠডঢণতথদধন"


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Run the gateway of a hub's folder in a thread."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()

    async def run() -> None:
        async with gate.open_(folder, ports.free()) as own, server.open_(own):
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(20)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(20)
        loop.close()


def new_hub(folder: Path) -> Path:
    """Return the folder of a new hub on a free port of loopback."""
    port = ports.free()
    settings = hub.new("demo", f"127.0.0.1:{port}")
    settings = settings.model_copy(
        update={"listen": f"0.0.0.0:{port}"}
    )  # reached by other names too
    authority.create(folder, settings)
    hub.create(folder, settings)
    return folder


def new_silo(where: Path, at: Path, text: Path) -> Folder:
    """Return the folder of a silo that a hub has approved."""
    kit = roster.invite(at, f"clinic-{next(NUMBERS)}", ("as",), 1)
    folder = Folder(where / kit.name)
    join.prepare(folder.path, kit, str(text), "builtin:tiny")
    asked = certificates.request(certificates.load_key(folder.key), kit.name)
    roster.enrol(at, kit.token, asked)
    folder.certificate.write_bytes(roster.approve(at, kit.name).certificate.encode())
    join.keep(folder.path, kit.model_copy(update={"token": ""}))
    return folder


@pytest.fixture(autouse=True)
def sockets_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let folders of sockets lie in this test's own folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a few rows of text in one language, some in every split."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "as").mkdir()
    rows = [
        {"text": f"{letter} {letter * 3}", "doc": f"{split}-{letter}", "split": split}
        for split in ("train", "valid", "test")
        for letter in LETTERS
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "as" / "rows.jsonl").write_text(lines, "utf-8")
    return folder


@pytest.fixture(scope="session")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a hub whose gateway runs."""
    folder = new_hub(tmp_path_factory.mktemp("federation") / "hub")
    with serving(folder):
        yield folder


@pytest.fixture
def joined(at: Path, text: Path, tmp_path: Path) -> Folder:
    """Return the folder of a silo that may speak to the hub."""
    return new_silo(tmp_path, at, text)


@pytest.fixture
def stranger(text: Path, tmp_path: Path) -> Callable[[], tuple[Path, Folder]]:
    """Return a maker of another federation: its hub's folder and a silo of it. Nothing of it runs."""

    def make() -> tuple[Path, Folder]:
        other = new_hub(tmp_path / "elsewhere")
        return other, new_silo(tmp_path / "there", other, text)

    return make
