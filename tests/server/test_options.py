"""What a user sees of `fl-sim` where the system refuses something."""

from __future__ import annotations

import io
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from fl_client.config import Study
from fl_server import config
from fl_server.run import RoundFailed
from fl_server.simulation import cli
from fl_server.simulation import study as studies
from fl_server.simulation.cli import app
from fl_server.simulation.options import plain_errors, resumable
from fl_server.simulation.pool import Died


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


def said(error: BaseException, folder, option="--resume") -> tuple[str, int]:
    """Return what a command that ends so says, and its exit code."""
    console = Console(file=io.StringIO(), width=500, stderr=True)
    with (
        pytest.raises(typer.Exit) as ended,
        plain_errors(console),
        resumable(folder, console, option),
    ):
        raise error
    return console.file.getvalue(), ended.value.exit_code


@pytest.mark.parametrize("option", ["--resume", "--out"])
def test_where_a_process_died_the_command_says_with_which_of_its_options_it_goes_on(
    option, tmp_path
):
    told, code = said(Died("a process died", "of a cell"), tmp_path, option)
    assert code == 1
    assert f"a process died. Continue with {option} {tmp_path}," in told and "of a cell" not in told


def test_a_process_that_dies_before_the_first_round_is_no_crash_either(tmp_path):
    class Crew:
        cores = 2

        def do(self, *_):
            raise BrokenProcessPool

    @contextmanager
    def crews(_):
        yield Crew()

    with pytest.raises(Died, match="lack of memory"):
        studies.run(Study(), tmp_path / "run", Console(quiet=True), crews=crews)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RoundFailed("no text in /data/[as]/[/x]")])
def test_brackets_in_a_folder_or_a_reason_are_shown_as_they_stand(error, tmp_path):
    folder = tmp_path / "[as]" / "[" / "x]"
    told, _ = said(error, folder)
    assert (str(error) or f"--resume {folder}") in told


def test_where_the_report_lies_is_shown_as_it_stands():
    console = Console(file=io.StringIO(), width=500)
    cli._show({}, lambda _: "tables", "report: /runs/[as]/[/x]", console, False)
    assert "report: /runs/[as]/[/x]" in console.file.getvalue()


@pytest.mark.parametrize(
    "given",
    [
        ["study.toml"],
        ["--set=train.lr=0.1"],
        ["--silos=4"],
        ["--rounds=3"],
        ["--data=elsewhere"],
        ["--languages=as"],
        ["--base=builtin:tiny"],
        ["--threads=0"],
        ["--dtype=float32"],
        ["--out=elsewhere"],
    ],
)
def test_what_a_run_that_goes_on_would_not_heed_is_refused_by_its_name(given, tmp_path):
    (tmp_path / "study.toml").write_text(config.toml(Study()))
    ran = CliRunner().invoke(app, ["run", "--resume", str(tmp_path), *given])
    name = given[0].partition("=")[0].replace("study.toml", "the study file")
    assert ran.exit_code == 2
    assert " ".join(ran.stderr.split()).endswith(f"it began with; leave out {name}")


def test_what_a_run_heeds_is_not_refused_where_it_goes_on(tmp_path):
    heeded = ["--engine=local", "--processes=1", "--cohort=1", "--json", "--verbose"]
    ran = CliRunner().invoke(app, ["run", "--resume", str(tmp_path), *heeded])
    assert ran.exit_code == 2 and "holds no run to resume" in ran.stderr


def test_data_without_a_name_is_not_the_folder_that_one_stands_in(tmp_path, monkeypatch):
    (tmp_path / "as.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(app, ["run", "--data", "", "--out", str(tmp_path / "run")])
    assert ran.exit_code == 2 and "simulation.data='' is not allowed" in ran.stderr
