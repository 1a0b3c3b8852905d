"""The app bundle: the same bytes everywhere, as Flower builds it, and no code in it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from fl_client import bundle
from fl_client.config import Study, flat

FLWR = Path(sys.executable).parent / "flwr"


def test_flower_builds_the_very_same_bytes(tmp_path):
    app = bundle.write(tmp_path / "bundle")
    env = os.environ | {"FLWR_HOME": str(tmp_path / "home")}
    subprocess.run(
        [str(FLWR), "build", "--app", str(app)], cwd=tmp_path, env=env, check=True, capture_output=True
    )  # fmt: skip
    (built,) = tmp_path.glob("*.fab")
    assert built.read_bytes() == bundle.fab()
    assert hashlib.sha256(built.read_bytes()).hexdigest() == bundle.sha256()


def test_flower_unpacks_it_where_we_look_and_finds_it_whole(tmp_path, monkeypatch):
    from flwr.cli.install import install_from_fab

    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    found = install_from_fab(bundle.fab(), skip_prompt=True)
    assert found == bundle.unpacked(tmp_path)
    assert bundle.installed_matches(found)


def test_it_holds_no_code_and_every_key_of_a_study():
    with zipfile.ZipFile(io.BytesIO(bundle.fab())) as archive:
        assert sorted(archive.namelist()) == [".info/CONTENT", "LICENSE", "pyproject.toml"]
        app = tomllib.loads(archive.read("pyproject.toml").decode())["tool"]["flwr"]["app"]
    held = {}
    for key, value in app["config"].items():
        held |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    assert held == flat(Study())
    assert app["components"] == {"serverapp": "fl_server.app:app", "clientapp": "fl_client.app:app"}
    assert app["publisher"] + "/bhasha" == bundle.APP


def test_it_asks_for_no_package_but_flower():
    project = tomllib.loads(bundle.files()[bundle.PROJECT].decode())["project"]
    assert project["dependencies"] == ["flwr>=1.41.0"]
    assert project["version"] == bundle.version()


def test_another_version_is_another_bundle(monkeypatch):
    before = bundle.sha256()
    monkeypatch.setattr(bundle, "version", lambda: "9.9.9")
    fresh = hashlib.sha256(bundle.fab.__wrapped__()).hexdigest()
    assert fresh == before  # the files are made once
    bundle.files.cache_clear()
    try:
        assert hashlib.sha256(bundle.fab.__wrapped__()).hexdigest() != before
    finally:
        bundle.files.cache_clear()


def test_unpacking_is_whole_and_leaves_what_is_there(tmp_path):
    app = bundle.unpack(tmp_path)
    assert bundle.installed_matches(app)
    assert [path.name for path in tmp_path.iterdir()] == ["apps"]
    (app / "more.py").write_text("")
    assert bundle.unpack(tmp_path) == app
    assert not bundle.installed_matches(app)
    assert bundle.planted(tmp_path) == app


def test_an_unpacking_that_fails_leaves_nothing_half_there(tmp_path, monkeypatch):
    def broken(folder):
        (folder / "pyproject.toml").write_text("")
        raise OSError("the disk is full")

    monkeypatch.setattr(bundle, "write", broken)
    with pytest.raises(OSError, match="full"):
        bundle.unpack(tmp_path)
    assert not bundle.unpacked(tmp_path).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["apps"]


@pytest.mark.parametrize("name", [bundle.PROJECT, bundle.LICENSE])
def test_a_changed_or_missing_file_does_not_match(tmp_path, name):
    app = bundle.write(tmp_path / "app")
    assert bundle.installed_matches(app)
    content = (app / name).read_bytes()
    (app / name).write_bytes(content + b"\n")
    assert not bundle.installed_matches(app)
    (app / name).unlink()
    assert not bundle.installed_matches(app)
    (app / name).mkdir()
    assert not bundle.installed_matches(app)
    (app / name).rmdir()
    (tmp_path / "elsewhere").write_bytes(content)
    (app / name).symlink_to(tmp_path / "elsewhere")
    assert not bundle.installed_matches(app)


def test_what_is_no_folder_does_not_match(tmp_path):
    assert not bundle.installed_matches(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert not bundle.installed_matches(tmp_path / "file")
    bundle.write(tmp_path / "app")
    (tmp_path / "link").symlink_to(tmp_path / "app")
    assert not bundle.installed_matches(tmp_path / "link")


def test_apps_that_lie_elsewhere_behind_a_link_are_found_out(tmp_path):
    bundle.unpack(tmp_path / "other")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "apps").symlink_to(tmp_path / "other" / "apps")
    assert bundle.planted(tmp_path / "home") == tmp_path / "home" / "apps"


def test_where_nothing_is_unpacked_nothing_is_planted(tmp_path):
    assert bundle.planted(tmp_path) is None
