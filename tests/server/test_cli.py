"""The commands as a user types them: exit codes, plain errors before anything is trained, tables, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch import cuda
from typer.testing import CliRunner

from fl_client import lock
from fl_client.cli import app as fl_client
from fl_client.config import ConfigError, from_flat
from fl_server import journal
from fl_server.cli import app as fl_server
from fl_server.simulation import options
from fl_server.simulation import study as studies
from fl_server.simulation.cli import app as fl_sim
from fl_server.simulation.pool import cores

SETTINGS = {
    "rounds": 1,
    "model.rank": 2,
    "train.steps": 1,
    "train.batch_size": 2,
    "train.length": 32,
    "evaluate.characters": 300,
    "alone.rates": 0.005,
    "simulation.characters": 2000,
}
SMALL = [f"--set={key}={value}" for key, value in SETTINGS.items()]
SMALL += ["--silos=2", "--languages=as,ne", "--processes=1"]


def call(app, *arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    said = " ".join(result.stderr.split())
    assert said.startswith("error: ")
    for word in words:
        assert word in said, said


def write_base(folder: Path, *missing: str) -> Path:
    for name in {"config.json", "tokenizer.json", "model.safetensors"} - set(missing):
        (folder / name).write_text("{}")
    return folder


BAD = {
    "an unknown key": (["--set=train.stepz=2"], ["'train.stepz'", "did you mean 'train.steps'"]),
    "a setting without a value": (["--set=rounds"], ["key=value"]),
    "an unknown strategy": (["--set=strategy=fedavgg()"], ["did you mean 'fedavg'"]),
    "a spec that does not parse": (["--set=strategy=fedavg("], ["does not parse"]),
    "a spec that is code": (["--set=strategy=__import__('os').system('true')"], ["is no call"]),
    "an unknown option of a strategy": (["--set=strategy=fedprox(nu=1)"], ["nu", "fedprox(mu"]),
    "rank 0": (["--set=model.rank=0"], ["model.rank=0"]),
    "an engine that is none": (["--engine=spark"], ["--engine 'spark'", "local or ray"]),
    "numbers that are none": (["--dtype=fp16"], ["train.dtype='fp16'", "'float32' or 'bfloat16'"]),
    "threads below 0": (["--threads=-1"], ["train.threads=-1", "greater than or equal to 0"]),
    "a quorum over 1": (["--set=schedule=sync(quorum=2)"], ["quorum=2"]),
    "an unknown language": (["--languages=as,xx"], ["xx", "it has as, brx"]),
    "silos that do not divide": (["--silos=3"], ["silos=3", "as, ne"]),
    "no such data folder": (["--data=nowhere"], ["no folder"]),
    "an unknown built-in base": (["--base=builtin:huge"], ["builtin:tiny"]),
    "a base that is no folder": (["--base=./nowhere"], ["no model folder"]),
    "codecs that do not fit": (
        ["--set=codec=int8() | topk()"],
        ["C52", "put the narrowing codec last"],
    ),
    "nothing shared": (["--set=strategy=fedavg(lora='silo', rows='silo')"], ["C60"]),
    "only rows shared where none are trained": (
        ["--set=strategy=fedavg(lora='silo', rows='everyone')", "--set=model.rows=none"],
        ["C60", "model.rows='scripts'"],
    ),
    "rates that are no numbers": (["--set=alone.rates=a,b"], ["alone.rates"]),
    "targets that the base lacks": (["--set=model.targets=nothing"], ["model.targets='nothing'"]),
    "alone without scores": (["--set=evaluate.every=0"], ["alone.enabled = false"]),
    "a run folder that holds nothing": (["--resume=nowhere"], ["holds no run"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_plain_sentence_before_anything_is_trained(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[case]
    refused(call(fl_sim, "run", *SMALL, "--out", tmp_path / "run", *arguments), *words)
    assert not list(tmp_path.rglob("rounds.jsonl"))


@pytest.mark.parametrize("command", ["compare", "sweep"])
@pytest.mark.parametrize("case", ["an engine that is none", "numbers that are none"])
def test_comparisons_refuse_what_a_run_refuses(command, case, tmp_path):
    arguments, words = BAD[case]
    given = ("--strategies=fedavg()", *SMALL, "--out", tmp_path / "run", *arguments)
    refused(call(fl_sim, command, *given), *words)


@pytest.mark.parametrize(
    ("missing", "word"),
    [
        ("config.json", "config.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", "safetensors"),
    ],
)
def test_a_base_folder_that_lacks_a_part_is_refused_with_the_part_named(missing, word, tmp_path):
    base = write_base(tmp_path, missing)
    refused(call(fl_sim, "run", *SMALL, "--base", base, "--out", tmp_path / "run"), word)


def test_pickled_weights_are_never_read(tmp_path):
    base = write_base(tmp_path, "model.safetensors")
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(call(fl_sim, "run", *SMALL, "--base", base), "other formats can run code")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("as.txt", b"", ["holds no text"]),
        ("as.txt", "অসম\n".encode() + b"\xff\xfe", ["as.txt is not UTF-8"]),
        ("as.jsonl", b'{"body": "x"}\n', ["as.jsonl row 1 has no 'text'"]),
        ("as.jsonl", b'{"text": "x", "lang": "../up"}\n', ["lang='../up'"]),
        ("as.jsonl", b'{"text": "x", "split": "devtest"}\n', ["split='devtest' is unknown"]),
        ("as.parquet", b"PAR1", ["cannot be read as parquet"]),
    ],
)
def test_text_that_cannot_be_used_is_named(name, content, words, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / name).write_bytes(content)
    arguments = [*SMALL, "--languages=as", "--silos=1", "--data", data, "--out", tmp_path / "run"]
    refused(call(fl_sim, "run", *arguments), *words)


def test_an_output_folder_of_another_study_is_left_as_it_is(finished):
    study, _ = finished
    before = sorted((p, p.stat().st_mtime_ns) for p in Path(study.home).rglob("*"))
    refused(call(fl_sim, "run", *SMALL, "--out", study.home), "belongs to another study")
    assert sorted((p, p.stat().st_mtime_ns) for p in Path(study.home).rglob("*")) == before


def test_a_folder_that_is_not_a_run_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    refused(call(fl_sim, "run", *SMALL, "--out", tmp_path), "is not empty")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Return the folder of a run, what the command said, and the report as it lay there then."""
    folder = tmp_path_factory.mktemp("ran") / "run"
    result = call(fl_sim, "run", *SMALL, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder, result, json.loads((folder / "report.json").read_text())


def test_a_run_shows_every_language_and_silo_and_where_the_report_lies(ran):
    _, result, _ = ran
    for word in ("Assamese", "Nepali", "as-1", "ne-1", "alone", "together", "report.html"):
        assert word in result.output


def test_a_finished_run_can_be_resumed_and_says_the_same_as_json_and_nothing_else(ran):
    folder, _, first = ran
    again = call(fl_sim, "run", "--resume", folder, "--processes=1", "--json")
    assert again.exit_code == 0, again.output
    report = json.loads(again.stdout)
    assert report == json.loads((folder / "report.json").read_text())
    for kept in ("adapter_sha256", "languages", "silo_scores", "bytes"):
        assert report[kept] == first[kept]


def test_a_study_that_scores_nothing_still_trains_releases_and_reports(tmp_path):
    given = ("--set=evaluate.every=0", "--set=alone.enabled=false", "--out", tmp_path / "run")
    result = call(fl_sim, "run", *SMALL, *given)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report["released_round"].values()) == {1} and report["bytes"]["up"] > 0
    assert not report["curves"] and {row["after"] for row in report["languages"].values()} == {None}
    for silo, own in report["silo_scores"].items():
        assert own["served"] == "together"
        assert any((tmp_path / "run" / "silos" / silo / "served").iterdir())


def test_a_simulation_of_someone_who_coordinates_a_hub_has_nothing_to_do_with_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("BHASHA_HUB", str(tmp_path / "hub"))
    given = ("--set=evaluate.every=0", "--set=alone.enabled=false", "--out", tmp_path / "run")
    result = call(fl_sim, "run", *SMALL, *given)
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_methods_are_not_compared_where_nothing_is_scored(command, tmp_path):
    given = (
        "--set=evaluate.every=0",
        "--set=alone.enabled=false",
        "--set=alone.rates=0.003,0.01,0.03",
    )
    said = call(fl_sim, command, "--strategies=fedavg()", *SMALL, *given, "--out", tmp_path)
    refused(said, "compared by their scores")
    assert not list(tmp_path.iterdir())


def test_a_run_that_another_process_works_at_is_left_to_it(ran):
    folder, _, _ = ran
    with lock.only_one(folder):
        again = call(fl_sim, "run", "--resume", folder, "--processes=1")
    refused(again, "runs already", str(os.getpid()))


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ([], (cores(), 1, "auto", 0)),
        (["--processes=3", "--cohort=2"], (3, 1, "auto", 2)),
        ([f"--threads={cores()}", "--dtype=float32"], (1, cores(), "float32", 0)),
        ([f"--threads={2 * cores()}"], (1, 2 * cores(), "auto", 0)),
        (["--threads=0"], (1, 0, "auto", 0)),  # which leaves the cores to Torch
    ],
)
def test_a_run_fills_the_cores_with_processes_of_one_thread_where_nobody_says_otherwise(
    given, taken, tmp_path, monkeypatch
):
    asked = []

    def run(study, *_, processes, cohort, **__):
        asked.append((processes, study.train.threads, study.train.dtype, cohort))
        raise ConfigError("enough")

    monkeypatch.setattr(studies, "run", run)
    refused(call(fl_sim, "run", "--out", tmp_path / "run", *given), "enough")
    assert asked == [taken]


def test_a_gpu_is_for_one_process_that_trains_many_silos_or_its_memory_is_shared(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(options, "gpu", lambda: True)
    study = from_flat({"train.batch_size": 1, "train.length": 64, "model.rows": "none"})
    assert options.processes_of(0, study) == 1
    assert options.processes_of(3, study) == 3
    assert options.processes_of(0, study, "ray") == cores()
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "mem_get_info", lambda: (4 * 10**9, 10**10))
    shared = studies.at_once(study, tmp_path, 10**6, 0, 16, sharing=4)
    monkeypatch.setattr(cuda, "mem_get_info", lambda: (10**9, 10**10))
    assert shared == studies.at_once(study, tmp_path, 10**6, 0, 16) > 1


@pytest.mark.parametrize("command", ["compare", "sweep"])
def test_every_run_of_several_takes_the_cohort_that_was_asked_for(command, tmp_path, monkeypatch):
    asked = []

    def run(*_, cohort, **__):
        asked.append(cohort)
        raise ConfigError("enough")

    monkeypatch.setattr(studies, "run", run)
    given = ["--strategies=fedavg(lora='language')", "--cohort=3", *SMALL]
    refused(
        call(fl_sim, command, *given, "--set=alone.rates=0.003,0.01,0.03", "--out", tmp_path),
        "enough",
    )
    assert asked == [3]


def test_compare_sets_strategies_beside_alone_and_centralised(tmp_path):
    arguments = ["--strategies=fedavg(lora='language')", "--strategies=ffa()"]
    result = call(fl_sim, "compare", *arguments, *SMALL, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert list(made["runs"]) == ["fedavg(lora='language')", "ffa()"]
    for lang in ("as", "ne"):
        before = {
            run["languages"][lang]["before"]["bits_per_byte"] for run in made["runs"].values()
        }
        before.add(made["local_only"]["languages"][lang]["before"]["bits_per_byte"])
        before.add(made["centralised"]["languages"][lang]["before"]["bits_per_byte"])
        assert len(before) == 1, "all methods are scored on the same text"
    assert (tmp_path / "compare.html").stat().st_size > 1000


def test_list_names_every_part_with_one_line():
    found = json.loads(call(fl_sim, "list", "--json").stdout)
    assert {"fedavg", "fedprox", "ffa"} <= set(found["strategy"])
    parts = [part for known in found.values() for part in known.values()]
    assert all(part["does"].endswith(".") for part in parts)
    assert found["strategy"]["fedavg"]["arguments"]["lora"] == "everyone"


def test_list_shows_how_a_study_names_each_part():
    shown = "".join(call(fl_sim, "list").stdout.split())
    assert "quorum=1.0" in shown and "max_staleness=8" in shown


def test_the_server_checks_a_study_file(tmp_path):
    study = tmp_path / "study.toml"
    study.write_text('[study]\nname = "mine"\nstrategy = "fedprox(mu=0.1)"\n[train]\nsteps = 3\n')
    result = call(fl_server, "check", study, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["train.steps"] == 3
    study.write_text('[study]\nstrategy = "fedprox(mu=-1)"\n')
    refused(call(fl_server, "check", study), "mu=-1")
    study.write_text("name = 3\n")
    refused(call(fl_server, "check", study), "outside a table")
    study.write_text("[study\n")
    refused(call(fl_server, "check", study), "is no study file")


def test_the_server_shows_a_study_that_fits_with_all_that_it_holds(tmp_path):
    study = tmp_path / "study.toml"
    study.write_text(
        '[study]\n[model]\nbase = "models/[/x]"\n[simulation]\ndata = "my [red]text"\n'
    )
    result = call(fl_server, "check", study)
    assert result.exit_code == 0, result.output
    assert "models/[/x]" in result.stdout and "my [red]text" in result.stdout


def test_a_sweep_sets_methods_beside_both_baselines_and_does_nothing_when_told_again(tmp_path):
    arguments = ["sweep", "--strategies=fedavg(lora='language')", "--seeds=7"]
    arguments += ["--rates=0.01,0.003,0.03", *SMALL, f"--out={tmp_path}"]
    result = call(fl_sim, *arguments, "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert list(made["methods"]) == ["alone", "fedavg(lora='language')", "centralised"]
    assert made["rates"] == [0.003, 0.01, 0.03] and made["seeds"] == [7]
    assert {path.name for path in (tmp_path / "cells").iterdir()} == set(made["cells"])
    assert len(made["cells"]) == 6
    for method in made["methods"].values():
        assert set(method["languages"]) == {"as", "ne"} and method["mean"]["mean"] > 0
    assert "report.json" not in {path.name for path in tmp_path.iterdir()}
    written = [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("report.json"))]
    again = call(fl_sim, *arguments)
    assert again.exit_code == 0, again.output
    assert "6 of 6 cells are there already" in again.output
    assert "Assamese" in again.output and "sweep.html" in again.output
    assert [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("report.json"))] == written
    assert json.loads((tmp_path / "sweep.json").read_text()) == made


def test_a_sweep_may_choose_the_rate_with_its_first_seed(tmp_path):
    arguments = ["sweep", "--strategies=fedavg(lora='language')", "--seeds=7,8", "--tune-once"]
    arguments += ["--rates=0.01,0.003,0.03", *SMALL, "--processes=1", f"--out={tmp_path}"]
    made = json.loads(call(fl_sim, *arguments, "--json").stdout)
    (_, tuned, pooled) = made["methods"].values()
    ran = {(cell["method"], cell["rate"]) for cell in made["cells"].values() if cell["seed"] == 8}
    assert ran == {("fedavg(lora='language')", tuned["rate"]), ("centralised", pooled["rate"])}
    assert len(made["cells"]) == 6 + 2
    assert len(tuned["mean"]["values"]) == len(pooled["mean"]["values"]) == 2


def test_the_client_counts_text_by_language():
    counts = json.loads(call(fl_client, "text", "cldr", "--json").stdout)
    assert set(counts) == {"as", "brx", "kok", "ks", "mai", "ne", "or", "sat"}
    assert all(held["bytes"] > held["characters"] > held["rows"] for held in counts.values())


def test_the_client_counts_questions_and_answers_too(tmp_path):
    rows = [{"prompt": "কি?", "response": "এক"}, {"messages": [{"role": "user", "content": "?"}]}]
    (tmp_path / "as.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = json.loads(call(fl_client, "text", tmp_path, "--json").stdout)
    assert counts == {"as": {"rows": 2, "characters": 7, "bytes": 15}}


def test_ctrl_c_keeps_what_was_committed_and_says_how_to_go_on(tmp_path):
    folder = tmp_path / "run"
    changed = [*SMALL, "--set=rounds=200", "--set=alone.enabled=false", "--out", str(folder)]
    # A shell starts jobs in the background with Ctrl-C ignored; this test must not depend on how it was started.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from fl_server.simulation.cli import app; app()"
    )
    command = [sys.executable, "-c", start, "run", *changed, "--processes=2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not (folder / "journal" / "round-00002.json").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"--resume {folder}" in " ".join(said.split())
    assert "Traceback" not in said
    assert journal.recall(folder / "journal").round >= 2


@pytest.mark.parametrize("app", [fl_sim, fl_server, fl_client])
def test_a_crash_never_prints_local_variables_which_may_hold_text(app):
    assert not app.pretty_exceptions_enable
