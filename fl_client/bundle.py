"""The Flower app bundle: configuration only, the same bytes wherever this version is installed.

A hub never sends code. What runs is named in the bundle (``fl_client.app:app``) and found in the installation; the
bundle's hash says only that hub and silo run the same version. It is built here as ``flwr build`` builds it, so that
its hash needs no Flower command; a test holds the two against each other.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import stat
import tempfile
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path

from fl_client.config import Scalar, Study, flat
from fl_client.memory import write_whole

PUBLISHER, NAME = "bhasha-fl", "bhasha"
APP = f"{PUBLISHER}/{NAME}"  # as Flower calls it
PROJECT, LICENSE = "pyproject.toml", "LICENSE"
TERMS = "SPDX-License-Identifier: Apache-2.0\nhttps://www.apache.org/licenses/LICENSE-2.0\n"
DATE = (2024, 10, 1, 0, 0, 0)  # what Flower gives every file
HEAD = f"""[project]
name = "{NAME}"
version = "{{version}}"
description = "Configuration of bhasha-fl; the code is the installed package"
dependencies = [
    "flwr>=1.41.0",
]

[project.license]
file = "{LICENSE}"

[tool.flwr.app]
publisher = "{PUBLISHER}"
fab-format-version = 1
flwr-version-target = "1.41.0"
fab-include = [
    "{LICENSE}",
]

[tool.flwr.app.components]
serverapp = "fl_server.app:app"
clientapp = "fl_client.app:app"

[tool.flwr.app.config]
"""


def version() -> str:
    """Return the installed version, which is the app's."""
    return metadata.version("bhasha-fl")


@cache
def files() -> dict[str, bytes]:
    """Return the files of the app folder, by name."""
    plain: list[str] = []
    tables: dict[str, list[str]] = {}
    for key, value in flat(Study()).items():
        table, _, name = key.rpartition(".")
        (tables.setdefault(table, []) if table else plain).append(f"{name} = {_toml(value)}\n")
    text = HEAD.format(version=version()) + "".join(plain)
    for table, lines in tables.items():
        text += f"\n[tool.flwr.app.config.{table}]\n" + "".join(lines)
    return {PROJECT: text.encode(), LICENSE: TERMS.encode()}


def _toml(value: Scalar) -> str:
    return repr(value) if isinstance(value, float) else json.dumps(value)


def write(folder: Path) -> Path:
    """Write the app folder that ``flwr run`` and ``flwr build`` take, and return it."""
    for name, content in files().items():
        write_whole(folder / name, content)
    return folder


@cache
def fab() -> bytes:
    """Return the bundle that Flower builds from the app folder."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in files().items():
            archive.writestr(zipfile.ZipInfo(name, DATE), content)
        rows = [f"{n},{hashlib.sha256(c).hexdigest()},{len(c) * 8}" for n, c in files().items()]
        archive.writestr(zipfile.ZipInfo(".info/CONTENT", DATE), "\n".join(rows))
    return held.getvalue()


@cache
def sha256() -> str:
    """Return the hash of the bundle, in hex digits."""
    return hashlib.sha256(fab()).hexdigest()


def unpacked(home: Path) -> Path:
    """Return where Flower, with this home folder, looks for the unpacked bundle."""
    return home / "apps" / f"{PUBLISHER}.{NAME}.{version()}.{sha256()[:8]}"


def unpack(home: Path) -> Path:
    """Put the unpacked bundle where Flower looks for it, whole or not at all; what is there is left as it is."""
    target = unpacked(home)
    if target.exists() or target.is_symlink():
        return target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(
        tempfile.mkdtemp(prefix="new-", dir=home)
    )  # beside apps, where nothing is looked for
    try:
        write(made).rename(target)
    except OSError:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return target


def installed_matches(app_folder: Path) -> bool:
    """Return whether an unpacked app folder holds exactly the bundle's files, byte for byte, and nothing beside."""
    return _holds_only(app_folder, set(files())) and all(
        (app_folder / name).read_bytes() == content for name, content in files().items()
    )


def planted(home: Path) -> Path | None:
    """Return the first thing among the unpacked apps that this installation did not put there; None if all is well.

    Folders of earlier versions may stay: two files of those names, and nothing that could be imported.
    """
    apps, own = home / "apps", unpacked(home)
    if apps.is_symlink():
        return apps
    for found in sorted(apps.iterdir()) if apps.exists() else []:
        fine = installed_matches(found) if found == own else _holds_only(found, set(files()))
        if not fine:
            return found
    return None


def _holds_only(folder: Path, names: set[str]) -> bool:
    try:
        kinds = {path.name: stat.S_ISREG(path.lstat().st_mode) for path in folder.iterdir()}
    except OSError:
        return False
    return not folder.is_symlink() and set(kinds) == names and all(kinds.values())
