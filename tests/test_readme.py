"""README and docs tell the truth: commands run, the study can be read, links lead somewhere, schemas are the files'."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl_server import config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, flags=re.S)


def commands(block: str) -> list[str]:
    # .ci/run calls the targets of make; a comment says who types the lines below it
    return [line for line in block.strip().splitlines() if not line.startswith(("make ", "#"))]


TYPED = {lines[0]: lines for lines in map(commands, blocks("sh")) if lines}


def block(first: str):
    """Return the block of a first command, as slow, or as one that starts a hub and silos that stay."""
    stays = any(line.endswith("&") for line in TYPED[first])
    return pytest.param(first, marks=pytest.mark.superlink if stays else pytest.mark.slow)


def test_the_study_in_the_readme_is_a_study_that_can_run(tmp_path):
    (text,) = blocks("toml")
    (tmp_path / "study.toml").write_text(text)
    parts, _ = config.build(config.read(tmp_path / "study.toml"))
    assert parts.strategy.private_rank == 8


def test_every_make_target_that_the_readme_names_is_there_and_ci_calls_the_same_makefile():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"^make ([a-z-]+)", README, flags=re.M)) | {"figures"}
    assert named and all(re.search(rf"^{target}:", makefile, flags=re.M) for target in named)
    assert "make demo" in (ROOT / ".ci" / "run").read_text()


def section(title: str) -> str:
    """Return what the page about runs says under a title."""
    return (ROOT / "docs" / "runs.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_about_runs_names_every_key_of_a_report(finished):
    _, report = finished
    told = section("`report.json`")
    for key in set(report) - {"schema"}:
        assert key in told, key
    for key in report["silo_scores"]["as-1"]:
        assert key in told, key
    for key in report["languages"]["as"]:
        assert key in told, key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_link_to_a_file_of_ours_leads_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", page.read_text())
    assert links or page.name != "README.md"
    for path, anchor in links:
        target = page.parent / path
        assert target.exists(), path
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.M)
            assert anchor in [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]


def test_the_readme_types_commands_for_a_researcher_and_for_a_real_federation():
    assert {"fl-sim", "fl-server"} <= {first.split()[0] for first in TYPED}


@pytest.mark.parametrize("first", [block(first) for first in TYPED])
def test_every_command_of_the_readme_runs_in_order(first, tmp_path):
    (tmp_path / "study.toml").write_text(blocks("toml")[0])
    (tmp_path / ".venv").symlink_to(sys.prefix)
    text = tmp_path / "my-text"
    text.mkdir()
    for lang, word in (("as", "অসমীয়া ভাষা"), ("ne", "नेपाली भाषा")):
        lines = [f"{word} {chr(0x985 + n % 40)}{chr(0x905 + n % 50)} {n}" for n in range(400)]
        (text / f"{lang}.txt").write_text("\n".join(lines))
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    staying: list[subprocess.Popen[bytes]] = []
    try:
        for command in TYPED[first]:
            if command.endswith("&"):
                with (tmp_path / f"{len(staying)}.out").open("wb") as out:
                    words = command.removesuffix("&").split()
                    staying.append(
                        subprocess.Popen(
                            words, cwd=tmp_path, env=environment, stdout=out, stderr=out
                        )
                    )
                wait_for_the_hub()
            else:
                run(command, tmp_path, environment)
        for each in staying:
            assert each.wait(60) == 0
    finally:
        for each in staying:
            each.kill()
            each.wait()


def wait_for_the_hub():
    for _ in range(300):
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", 18443), timeout=1),
        ):
            return
        time.sleep(0.2)
    raise TimeoutError("the hub did not start")


def registry(folder, environment):
    """Return whether packages can be had at all."""
    asked = ["pip", "download", "--no-deps", "--dest", str(folder / "asked"), "packaging"]
    return not subprocess.run(asked, env=environment, capture_output=True, check=False).returncode


def run(command, folder, environment):
    ran = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if command.startswith("pip ") and ran.returncode and not registry(folder, environment):
        pytest.skip(f"no package registry to run {command!r} against")
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
