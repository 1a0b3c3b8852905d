"""Test text as tasks of lm-evaluation-harness: what a study tests, framed as it is tested, for its silo alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fl_client import chat, harness, silo, site
from fl_client.cli import app as fl_client
from fl_client.config import ConfigError, from_flat
from fl_server import config
from fl_server.simulation.cli import app as fl_sim
from tasks import encode

LABELS = ("good", "bad")
LONG = [
    {"role": role, "content": text}
    for role, text in [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "দীঘল উত্তৰ")]
]


def name(number):
    """Return letters that differ from number to number."""
    return "".join(chr(97 + int(digit)) for digit in f"{number * 7919:07d}")


def rows(folder: Path, make) -> str:
    (folder / "as").mkdir(parents=True)
    lines = (json.dumps(make(f"অসম {name(n)} {{% x %}}", n)) + "\n" for n in range(60))
    (folder / "as" / "x.jsonl").write_text("".join(lines))
    return str(folder)


MAKE = {
    "causal_lm()": lambda said, n: {"text": said},
    "translate()": lambda said, n: {"text": said, "en": f"{n}"},
    "instruct()": lambda said, n: (
        {"messages": LONG, "split": "test"} if n == 7 else {"prompt": f"{n}?", "response": said}
    ),
    "classify('good,bad')": lambda said, n: {"text": said, "label": LABELS[n % 2]},
}
KINDS = {
    "causal_lm()": ("loglikelihood_rolling", "bits_per_byte"),
    "translate()": ("generate_until", "chrf"),
    "instruct()": ("generate_until", "chrf"),
    "classify('good,bad')": ("multiple_choice", "acc"),
}


@pytest.fixture(params=MAKE)
def study(request, tmp_path):
    """Return a study of each task, whose folder of a run holds its study file."""
    pairs = {
        "task": request.param,
        "simulation.data": rows(tmp_path / "data", MAKE[request.param]),
        "simulation.languages": "as",
        "simulation.silos": 2,
    }
    made = from_flat(pairs)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.toml").write_text(config.toml(made))
    return made


def written(out: Path) -> tuple[dict, list[dict]]:
    """Return the one task of a folder and its rows, as the harness loads them."""
    (path,) = out.glob("*.yaml")
    table = yaml.safe_load(path.read_text("utf-8"))
    assert table["task"] == path.stem
    data = Path(table["dataset_kwargs"]["data_files"]["test"])
    assert data.is_absolute()
    return table, [json.loads(line) for line in data.read_text("utf-8").splitlines()]


def test_a_run_s_test_text_is_written_as_its_report_was_scored(study, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(fl_sim, ["harness", str(tmp_path / "run"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    table, found = written(out)
    kind, metric = KINDS[study.task]
    assert (table["output_type"], table["metric_list"][0]["metric"]) == (kind, metric)
    tested = [e for own in site.simulated(study) for e in own.test]
    answer = "text" if kind == "loglikelihood_rolling" else "response"
    assert [row[answer] for row in found] == [e.text for e in tested]
    if kind == "multiple_choice":
        assert [table["doc_to_choice"][row["label"]] for row in found] == [e.text for e in tested]
    assert table["target_delimiter"] == ""


@pytest.mark.parametrize("study", sorted(MAKE.keys() - {"causal_lm()"}), indirect=True)
def test_what_is_asked_is_what_the_model_is_asked_in_a_study(study, tmp_path, made):
    owns = [chat.framed(site.Own(own, tmp_path, study)) for own in site.simulated(study)]
    harness.write(tmp_path / "out", study, [own.site for own in owns])
    _, found = written(tmp_path / "out")
    tested = [e for own in owns for e in own.site.test]
    end = chat.closed(made, study).end
    for row, given in zip(found, encode.given(tested, made.tokenize, end), strict=True):
        assert row["prompt"] == made.tokenizer.decode(given[1:])
    if study.task == "instruct()":
        long = next(row for row in found if row["response"] == "দীঘল উত্তৰ")
        assert long["prompt"] == "user:\na\nassistant:\nb<|endoftext|>user:\nc\nassistant:\n"


def test_a_silo_writes_all_its_test_text_where_only_its_owner_reads_it(study, tmp_path):
    folder, out = tmp_path / "silo", tmp_path / "out"
    folder.mkdir()
    plain = {"name": "a", "federation": "b", "address": "h:1", "base_sha256": "0" * 64}
    settings = silo.Settings(**plain, data=study.simulation.data, base="builtin:tiny")
    silo.create(folder, settings)
    asked = ["harness", "--dir", str(folder), "--task", study.task, "--out", str(out)]
    result = CliRunner().invoke(fl_client, asked)
    assert result.exit_code == 0, result.output
    assert "private text" in result.output
    _, found = written(out)
    many = study.model_copy(
        update={"evaluate": study.evaluate.model_copy(update={"characters": 10**9})}
    )
    assert len(found) == sum(len(own.test) for own in site.simulated(many))
    assert out.stat().st_mode & 0o077 == 0
    told = (out / "README.md").read_text("utf-8")
    assert "private text" in told
    assert f"--include_path {out}" in told


def test_an_empty_folder_that_others_could_read_is_closed_to_them(tmp_path):
    tmp_path.chmod(0o755)
    harness.write(tmp_path, from_flat({}), [])
    assert tmp_path.stat().st_mode & 0o077 == 0


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is not empty; choose another --out"):
        harness.write(tmp_path, from_flat({}), [])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_breaks_off_leaves_nothing_so_that_the_same_command_works(tmp_path, monkeypatch):
    data = rows(tmp_path / "data", MAKE["causal_lm()"])
    study = from_flat(
        {"simulation.data": data, "simulation.languages": "as", "simulation.silos": 2}
    )
    asked = (tmp_path / "out", study, site.simulated(study))
    with monkeypatch.context() as patched:
        patched.setattr(harness, "_page", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            harness.write(*asked)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert harness.write(*asked) == ["bhasha_causal_lm_as"]


def test_a_folder_that_is_no_run_is_named_in_one_sentence(tmp_path):
    result = CliRunner().invoke(fl_sim, ["harness", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "holds no run" in result.stderr
