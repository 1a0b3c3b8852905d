"""What a silo gets of a study: shown with its scores, exported as an adapter or a whole model that others load."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from fl_client import bases, release, served, silo
from fl_client.cli import app
from fl_client.config import ConfigError

from . import gguf_base

BASE = "builtin:tiny"


@pytest.fixture
def college(finished, tmp_path) -> Path:
    """Return the folder of a silo that has taken part in the finished study."""
    study, _ = finished
    folder = tmp_path / "college"
    folder.mkdir()
    settings = silo.Settings(
        name="college", federation="demo", address="hub:1", data="text", base=BASE,
        base_sha256=bases.sha256(BASE),
    )  # fmt: skip
    silo.create(folder, settings)
    home = folder / "studies" / f"{study.name}-0123456789ab"
    shutil.copytree(Path(study.home) / "silos" / "as-1" / "served", home / "served")
    return folder


def typed(*words, code=0) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done.output


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.arange(5, 45)[None]).logits


def test_what_is_served_is_shown_with_the_scores_of_the_report(finished, college):
    study, report = finished
    (one,) = json.loads(typed("served", "--dir", college, "--json"))
    own = report["silo_scores"]["as-1"]
    assert (one["study"], one["served"], one["base"]) == (study.name, own["served"], BASE)
    ((found,), _) = served.every(college)
    for candidate, told in (("base", "before"), ("alone", "alone"), ("together", "together")):
        assert found.bits(candidate, "as") == pytest.approx(own[told])
    assert found.bits("together", "ne") is None
    shown = typed("served", "--dir", college)
    assert study.name in shown and "%" in shown


@pytest.mark.filterwarnings("ignore:.*missing adapter keys.*")
def test_an_exported_adapter_is_loaded_by_peft_as_its_page_says(finished, college, tmp_path):
    study, _ = finished
    out = tmp_path / "model"
    assert str(out) in typed("export", study.name, "--out", out, "--dir", college)
    assert {file.name for file in out.iterdir()} == {*release.ADAPTER, "README.md"}
    page = (out / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace("FOLDER", str(out))
    loaded: dict = {}
    exec(code, loaded)
    (home,) = (college / "studies").iterdir()
    wanted = PeftModel.from_pretrained(bases.model(BASE), home / "served")
    torch.testing.assert_close(logits(loaded["model"]), logits(wanted), rtol=1e-4, atol=1e-4)
    assert (logits(wanted) - logits(bases.model(BASE))).abs().max() > 0.1
    assert loaded["tokenizer"]("অসম")["input_ids"]


@pytest.mark.filterwarnings("ignore:.*missing adapter keys.*")
def test_a_merged_model_needs_no_peft_and_says_the_same(finished, college, tmp_path):
    study, _ = finished
    out = tmp_path / "model"
    out.mkdir()  # an empty folder is as good as none
    typed("export", study.name, "--out", out, "--merge", "--dir", college)
    (home,) = (college / "studies").iterdir()
    wanted = PeftModel.from_pretrained(bases.model(BASE), home / "served")
    model = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits(model), logits(wanted), rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(out)("অসম")["input_ids"]
    assert "peft" not in (out / "README.md").read_text()
    assert not list(tmp_path.glob("*.part"))


def test_a_merged_gguf_base_is_written_as_floats_that_need_no_gguf(finished, college, tmp_path):
    """What is merged is a random adapter: the one of the study belongs to another base."""
    base = str(gguf_base.write(tmp_path / "small.gguf"))
    (home,) = (college / "studies").iterdir()
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    tuned = get_peft_model(bases.model(base), config)
    tuned.save_pretrained(home / "served", save_embedding_layers=False)
    changes = {"base": base, "base_sha256": bases.sha256(base)}
    silo.write_settings(college, silo.read(college).model_copy(update=changes))
    out = tmp_path / "model"
    typed("export", finished[0].name, "--out", out, "--merge", "--dir", college)
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    wanted = PeftModel.from_pretrained(bases.model(base), home / "served")
    found = logits(AutoModelForCausalLM.from_pretrained(out))
    torch.testing.assert_close(found, logits(wanted), rtol=1e-4, atol=1e-4)
    assert (found - logits(bases.model(base))).abs().max() > 0.1
    word = "অসম"
    assert AutoTokenizer.from_pretrained(out)(word) == bases.tokenizer(base)(word)


def test_bad_wishes_are_refused_in_a_sentence_and_nothing_is_written(finished, college, tmp_path):
    study, _ = finished
    out, full = tmp_path / "model", tmp_path / "full"
    full.mkdir()
    (full / "mine").write_text("mine")
    wishes = {
        ("served", "--dir", tmp_path / "nowhere"): "join",
        ("export", "another", "--out", out, "--dir", college): study.name,
        ("export", study.name, "--out", full, "--dir", college): "not empty",
        ("export", study.name, "--out", full / "mine", "--dir", college): "not empty",
    }
    for wish, said in wishes.items():
        told = typed(*wish, code=2)
        assert said in told and "Traceback" not in told
    assert not out.exists() and (full / "mine").read_text() == "mine"


def test_a_folder_beside_the_one_asked_for_is_left_alone(finished, college, tmp_path):
    (tmp_path / "model.part").mkdir()
    (tmp_path / "model.part" / "thesis.txt").write_text("mine")
    typed("export", finished[0].name, "--out", tmp_path / "model", "--dir", college)
    assert (tmp_path / "model.part" / "thesis.txt").read_text() == "mine"
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o700
    assert {path.name for path in tmp_path.iterdir()} == {"college", "model", "model.part"}


def test_a_full_disk_is_told_of_the_folder_asked_for_and_nothing_is_left(
    finished, college, tmp_path, monkeypatch
):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", str(source))

    monkeypatch.setattr(shutil, "copyfile", full)
    said = typed("export", finished[0].name, "--out", tmp_path / "model", "--dir", college, code=2)
    assert f"there is no room for {tmp_path / 'model'}: No space left on device; make room" in said
    assert [path.name for path in tmp_path.iterdir()] == ["college"]


def test_of_two_studies_of_one_name_the_folder_tells_which(finished, college):
    study, _ = finished
    (home,) = (college / "studies").iterdir()
    shutil.copytree(home, home.with_name(f"{study.name}-ba9876543210"))
    with pytest.raises(ConfigError, match=f"2 studies .*{home.name}"):
        served.chosen(college, study.name)
    assert served.chosen(college, home.name).folder == home / "served"


def test_a_base_that_has_changed_is_not_merged(finished, college, tmp_path):
    settings = silo.read(college).model_copy(update={"base_sha256": "0" * 64})
    silo.write_settings(college, settings)
    wish = ("export", finished[0].name, "--out", tmp_path / "model", "--merge", "--dir", college)
    assert "has changed" in typed(*wish, code=2)
    assert not list(tmp_path.glob("model*"))


def test_a_disk_without_room_for_a_whole_model_is_told_before(
    finished, college, tmp_path, monkeypatch
):
    usage = namedtuple("usage", "total used free")(2, 1, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    wish = ("export", finished[0].name, "--out", tmp_path / "model", "--merge", "--dir", college)
    assert "leave --merge away" in typed(*wish, code=2)
    assert not list(tmp_path.glob("model*"))


def test_a_study_that_was_never_scored_serves_what_all_trained_and_says_so(college):
    (home,) = (college / "studies").iterdir()
    served.note(home / "served", "unscored", BASE, "together", {})
    assert "together" in typed("served", "--dir", college)
    ((one,), _) = served.every(college)
    assert one.scores == {} and "scored nothing" in release.card(one, silo.read(college), True)


def test_a_damaged_note_is_told_in_a_sentence_and_shuts_out_no_other_study(
    finished, college, tmp_path
):
    (home,) = (college / "studies").iterdir()
    torn = shutil.copytree(home, home.with_name("torn-0123456789ab")) / "served" / served.FILE
    torn.write_text("{")
    said = f"{torn} cannot be read (JSONDecodeError); the study must be scored again"
    study = finished[0].name
    shown = typed("served", "--dir", college)
    assert said in shown and study in shown
    typed("export", study, "--out", tmp_path / "model", "--dir", college)
    assert said in typed("export", "torn", "--out", tmp_path / "t", "--dir", college, code=2)
