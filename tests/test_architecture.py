"""The house: one way down, one file a thing, and nothing that only looks like it."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from fl_client.config import Study, flat

ROOT = Path(__file__).parent.parent
PACKAGES = ("fl_server", "fl_client", "strategies", "tasks")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
KNOW_FLOWER = {
    "fl_server/app.py",
    "fl_client/app.py",
    "fl_client/fleet.py",
    "fl_client/gateway/contents.py",
    "fl_client/messages.py",
    "fl_server/simulation/actors.py",
    "fl_server/simulation/grid.py",
    "fl_server/simulation/lot.py",
    "fl_server/simulation/visits.py",
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_flower_configuration_holds_every_key_of_a_study_with_its_default():
    stated = {}
    for key, value in PROJECT["tool"]["flwr"]["app"]["config"].items():
        held = value if isinstance(value, dict) else None
        stated |= {f"{key}.{k}": v for k, v in held.items()} if held else {key: value}
    assert stated == flat(Study())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_file_is_short_and_so_are_its_functions(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 200
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40, f"{node.name} is too long"


def test_only_the_four_seams_and_the_gateways_protocol_import_flower():
    found = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(module.split(".")[0] == "flwr" for module in modules):
                found.add(name(path))
    assert found == KNOW_FLOWER


def test_only_public_modules_of_flower_are_imported_but_for_what_the_local_grid_and_the_gateways_need():
    allowed = {"flwr.app", "flwr.serverapp", "flwr.clientapp"}
    more = {
        "actors.py": {"flwr.simulation"},
        "grid.py": {"flwr.supercore.run"},
        "lot.py": {"flwr.supercore.task_identity"},
        "fleet.py": {"flwr.proto"},  # the messages of Flower's silo API, which the gateways read
        "contents.py": {"flwr.proto"},  # what a reply consists of, which the silo's policy judges
    }
    for path in (ROOT / file for file in KNOW_FLOWER):
        used = {
            "flwr.proto" if node.module.startswith("flwr.proto") else node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flwr")
        }
        assert used <= allowed | more.get(path.name, set())


@pytest.mark.parametrize("app", ["fl_server.app", "fl_client.app", "fl_server.cli"])
def test_an_app_starts_without_torch(app):
    heavy = "{'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules)"
    code = f"import sys, {app}; found = {heavy}; sys.exit(str(found) if found else 0)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_no_folder_or_file_is_named_after_nothing():
    vague = {"utils", "util", "base", "manager", "common", "core", "helpers", "misc"}
    assert not [path for path in FILES if vague & set(path.relative_to(ROOT).with_suffix("").parts)]


@pytest.mark.slow
def test_the_wheel_holds_the_four_packages_and_the_demonstration_base_and_nothing_else(tmp_path):
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-q",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {n.split("/")[0] for n in names if ".dist-info/" not in n}
    assert tops == set(PACKAGES)
    weights = zipfile.ZipFile(wheel).getinfo("fl_client/bases/tiny/model.safetensors")
    assert weights.file_size <= 8_000_000
    assert "strategies/languages.json" in names
    assert "fl_server/report.html.j2" in names
