"""What a user sees of `fl-sim` where the system refuses something."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from fl_server.simulation.cli import app


@pytest.mark.parametrize("out", ["a-file", "a-file/run"])
def test_a_run_folder_that_cannot_be_made_is_one_sentence(out, tmp_path):
    (tmp_path / "a-file").write_text("text")
    ran = CliRunner().invoke(app, ["run", "--silos", "4", "--out", str(tmp_path / out)])
    assert ran.exit_code == 2
    assert "error: " in ran.stderr and "a-file" in ran.stderr and "Traceback" not in ran.stderr
    assert (tmp_path / "a-file").read_text() == "text"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run", "A study file"),
        ("bench", "nvflare"),
        ("rehearse", "A study file"),
        ("harness", "The folder of a run"),
    ],
)
def test_help_explains_the_arguments_of_a_command(command, words):
    ran = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    explained = ran.stdout.partition("Arguments")[2].partition("Options")[0]
    assert words in explained, ran.stdout
