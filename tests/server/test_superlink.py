"""Flower's database: one that is whole is kept, a damaged one is set aside, and the SuperLink starts either way."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.superlink.federation import NoOpFederationManager

from fl_server import superlink


@pytest.fixture
def database(tmp_path):
    """Return a database of a few hundred rows, a part of them in its log alone, as after a power cut."""
    path = tmp_path / "superlink.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE run (id INTEGER PRIMARY KEY, said TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made = [(version,) for version in superlink.last()]
        connection.executemany("INSERT INTO alembic_version VALUES (?)", made)
        connection.executemany("INSERT INTO run (said) VALUES (?)", [("x" * 100,)] * 500)
        connection.commit()
    return path


def started(database) -> str:
    command = [sys.executable, "-c", "print('the SuperLink runs')"]
    words = [sys.executable, "-P", "-m", "fl_server.superlink", str(database), *command]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_a_database_that_is_whole_or_not_there_yet_stays_as_it_is(database, tmp_path):
    before = database.read_bytes()
    assert started(database) == started(tmp_path / "new.db") == "the SuperLink runs\n"
    assert database.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["superlink.db"]


@pytest.mark.parametrize("at", [0, 18, 4096 + 1, 3 * 4096])
def test_a_damaged_one_is_set_aside_and_the_superlink_starts(at, database, tmp_path):
    content = bytearray(database.read_bytes())
    content[at : at + 512] = bytes(byte ^ 255 for byte in content[at : at + 512])
    database.write_bytes(content)
    (tmp_path / "superlink.db.damaged").write_bytes(b"an earlier one")
    said = started(database)
    assert "set aside" in said and said.endswith("the SuperLink runs\n")
    assert not database.exists()
    assert (tmp_path / "superlink.db.damaged").read_bytes() == content


@pytest.mark.parametrize(
    "undone",
    [
        "UPDATE alembic_version SET version_num = 'b277e6f3656c'",  # as a kill left it
        "DELETE FROM alembic_version",
        "DROP TABLE alembic_version",
        None,
    ],
)
def test_one_that_flower_had_only_begun_to_make_is_set_aside(undone, database, tmp_path):
    if undone is None:  # killed before the first table
        database.write_bytes(b"")
    else:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute(undone)
            connection.commit()
    said = started(database)
    assert "set aside" in said and said.endswith("the SuperLink runs\n")
    assert not database.exists()
    assert (tmp_path / "superlink.db.damaged").exists()


@pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")
def test_one_that_flower_has_made_is_whole(tmp_path):
    path = tmp_path / "superlink.db"
    state = LinkStateFactory(str(path), NoOpFederationManager(), ObjectStoreFactory()).state()
    assert state is not None
    assert superlink.whole(path)


def test_a_database_that_another_process_holds_is_not_taken_for_a_damaged_one(
    database, monkeypatch
):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path: connect(path, timeout=0))
    with closing(connect(database)) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("INSERT INTO run (said) VALUES ('held')")
        with closing(connect(database, timeout=0)) as one, pytest.raises(sqlite3.OperationalError):
            one.execute("PRAGMA quick_check")
        assert superlink.whole(database)


def test_with_its_log_so_that_no_new_database_gets_an_old_one(database, tmp_path):
    (tmp_path / "superlink.db-wal").write_bytes(b"old")
    superlink.set_aside(database)
    assert {file.name for file in tmp_path.iterdir()} == {
        "superlink.db.damaged", "superlink.db.damaged-wal"
    }  # fmt: skip
