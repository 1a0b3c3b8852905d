"""Flower's SuperLink as a hub starts it: ``python -m fl_server.superlink DATABASE COMMAND...``.

Its database holds runs and nodes of Flower's, which begin anew by themselves: one that is damaged, by a disk or because
it was copied while it was written, is set aside, where it would keep the hub from starting ever again. So is one that
Flower had only begun to make, or that another version of Flower made.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

VERSION = "alembic_version"  # the table that says how far Flower came in making a database
STEPS = "supercore/state/alembic"  # where in Flower lie the steps in which it does
BESIDE = ("", "-wal", "-shm")  # what SQLite has of one database


def whole(database: Path) -> bool:
    """Return whether nothing in a database is damaged and Flower has made it to its end.

    One that is not there yet is whole, and one that cannot be read now, as of a disk that is full or another process
    that holds it: what is wrong is the SuperLink's to say.
    """
    if not database.exists():
        return True
    try:
        with closing(sqlite3.connect(database)) as connection:
            sound = connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)]
            return sound and _made(connection)
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


def _made(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    if (VERSION,) not in tables.fetchall():
        return False
    return {row for (row,) in connection.execute(f"SELECT version_num FROM {VERSION}")} == last()


def last() -> set[str]:
    """Return what a database says that this Flower has made to its end.

    Half of a step stays where its process is killed, and Flower, which does that step anew, finds its tables there.
    """
    from alembic.script import ScriptDirectory

    flower = find_spec("flwr")
    assert flower is not None and flower.origin is not None
    return set(ScriptDirectory(str(Path(flower.origin).parent / STEPS)).get_heads())


def set_aside(database: Path) -> None:
    """Rename a database, so that a new one is made; the last that was set aside goes."""
    for end in BESIDE:
        file = database.with_name(database.name + end)
        if file.exists():
            file.replace(file.with_name(f"{database.name}.damaged{end}"))


def main(database: Path, command: list[str]) -> None:
    """Become the command, with a database that is whole."""
    if not whole(database):
        set_aside(database)
        said = f"{database} is damaged and set aside; Flower begins anew, studies go on\n"
        sys.stdout.write(said)
        sys.stdout.flush()
    os.execv(command[0], command)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
