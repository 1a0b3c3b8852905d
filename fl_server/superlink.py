"""Flower's SuperLink as a hub starts it: ``python -m fl_server.superlink DATABASE COMMAND...``.

Its database holds runs and nodes of Flower's, which begin anew by themselves: one that is damaged, by a disk or because
it was copied while it was written, is set aside, where it would keep the hub from starting ever again.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

BESIDE = ("", "-wal", "-shm")  # what SQLite has of one database


def whole(database: Path) -> bool:
    """Return whether nothing in a database is damaged.

    One that is not there yet is whole, and one that cannot be read now, as of a disk that is full or another process
    that holds it: what is wrong is the SuperLink's to say.
    """
    if not database.exists():
        return True
    try:
        with closing(sqlite3.connect(database)) as connection:
            return bool(connection.execute("PRAGMA quick_check(1)").fetchall() == [("ok",)])
    except sqlite3.OperationalError:
        return True
    except sqlite3.DatabaseError:
        return False


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
