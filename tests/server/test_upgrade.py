"""A study goes on under a newer version: the hub's folder is taken up, and each silo finds what it keeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KNOWN = "    rows_lr: Real = Field(1.0, gt=0)\n"
# Private token rows and what a codec left out stay in the silo's folder: without them another adapter comes out.
STUDY = [
    "--silos=2", "--languages=as", "--processes=1", "--set=rounds=3", "--set=train.steps=2", "--set=train.batch_size=2",
    "--set=strategy=fedavg(lora='everyone', rows='silo')", "--set=codec=topk(0.05) | int4()",
    "--set=alone.enabled=false", "--set=evaluate.characters=300",
]  # fmt: skip


@pytest.fixture
def newer(tmp_path):
    """Return a folder with this code, but that its studies have one more key."""
    place, own = tmp_path / "newer", ROOT / "fl_client"
    (place / "fl_client").mkdir(parents=True)
    for name in ("fl_server", "strategies", "tasks"):
        (place / name).symlink_to(ROOT / name)
    for path in own.iterdir():
        if path.name not in ("config.py", "__pycache__"):
            (place / "fl_client" / path.name).symlink_to(path)
    text = (own / "config.py").read_text()
    assert text.count(KNOWN) == 1
    more = text.replace(KNOWN, f"{KNOWN}    newer: Whole = Field(3, ge=0)\n")
    (place / "fl_client" / "config.py").write_text(more)
    return place


def started(code: Path, *words: object) -> subprocess.Popen[bytes]:
    """Start ``fl-sim run`` of the code in a folder."""
    line = [sys.executable, "-c", "from fl_server.simulation.cli import app; app()", "run"]
    environment = os.environ | {"PYTHONPATH": str(code)}
    return subprocess.Popen([*line, *map(str, words)], env=environment, cwd=code)


def rounds(folder: Path) -> int:
    record = folder / "rounds.jsonl"
    return len(record.read_text().splitlines()) - 1 if record.exists() else -1


@pytest.mark.slow
def test_a_study_that_was_killed_ends_under_a_newer_version_as_it_would_have(newer, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(ROOT, *STUDY, "--out", whole).wait(300) == 0
    older = started(ROOT, *STUDY, "--out", killed)
    until = time.monotonic() + 300
    try:
        while rounds(killed) < 1:
            assert older.poll() is None and time.monotonic() < until
            time.sleep(0.02)
    finally:
        older.kill()
        older.wait()
    assert 1 <= rounds(killed) < 3, "it was to be killed between its rounds"
    assert started(newer, "--resume", killed).wait(300) == 0
    first, second = (json.loads((run / "report.json").read_text()) for run in (whole, killed))
    assert second["study"]["train"]["newer"] == 3, "another version has ended it"
    assert second["adapter_sha256"] == first["adapter_sha256"]
