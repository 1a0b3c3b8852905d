"""What a study leaves behind: adapters that PEFT loads, a report whose numbers can be had again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from fl_client import bases, site
from fl_client.config import Model, Study
from fl_server import config, summary
from tasks import encode


def bits_per_byte(base, folder, examples, length):
    """Score a PEFT folder as a stranger would: stock PEFT on a fresh base, token by token."""
    model = PeftModel.from_pretrained(bases.model(base), folder).eval()
    tokenizer = bases.tokenizer(base)

    def tokenize(texts):
        return tokenizer(texts, add_special_tokens=False)["input_ids"]

    blocks = encode.pack(examples, tokenize, tokenizer.eos_token_id, length, learn_end=False)
    total = 0.0
    with torch.inference_mode():
        for ids, labels in zip(torch.tensor(blocks.ids), torch.tensor(blocks.labels), strict=True):
            logged = torch.log_softmax(model(input_ids=ids[None]).logits[0].double(), dim=-1)
            for at in range(1, len(ids)):
                if labels[at] != encode.IGNORED:
                    total -= float(logged[at - 1, labels[at]])
    return total / math.log(2) / blocks.bytes


@pytest.mark.filterwarnings("ignore:.*missing adapter keys.*")
@pytest.mark.parametrize("lang", ["as", "ne"])
def test_stock_peft_reproduces_the_reported_bits_per_byte(lang, finished):
    study, report = finished
    spoken = [s for s in site.simulated(study) if s.name.startswith(lang)]
    folder = Path(study.home) / "adapter" / lang
    scored = [bits_per_byte(study.model.base, folder, s.test, study.train.length) for s in spoken]
    for own, reached in zip(spoken, scored, strict=True):
        assert reached == pytest.approx(report["silo_scores"][own.name]["together"], abs=1e-3)


def test_what_a_silo_serves_is_a_peft_folder_that_reproduces_its_own_score(finished):
    study, report = finished
    own = site.simulated(study)[0]
    score = report["silo_scores"][own.name]
    folder = Path(study.home) / "silos" / own.name / "served"
    reached = bits_per_byte(study.model.base, folder, own.test, study.train.length)
    assert reached == pytest.approx(score[summary.served(score)], abs=1e-3)


def test_the_report_has_its_documented_keys(finished):
    study, report = finished
    assert {
        "schema", "study", "seed", "rounds_completed", "silos", "languages", "silo_scores", "summary", "curves",
        "released_round", "adapters", "bytes", "weights", "cohort", "effort", "budgets", "wall_s", "adapter_sha256",
    } == set(report)  # fmt: skip
    assert report["rounds_completed"] == 3
    assert set(report["bytes"]) == {"down", "up", "dense_up"}
    for own in report["silo_scores"].values():
        assert {
            "language", "before", "alone", "together", "adapted", "blend", "served", "alone_lr", "blend_share", "scores"
        } == set(own)  # fmt: skip
        assert own["served"] in {"base", "alone", "together", "adapted", "blend"}
        assert own["blend_share"] in {0.25, 0.5, 0.75, 1.0} and own["blend"] > 0
    for row in report["languages"].values():
        assert row["after"]["bits_per_byte"] < row["before"]["bits_per_byte"]


def test_the_report_counts_the_bytes_that_its_rounds_recorded(finished):
    study, report = finished
    lines = [json.loads(x) for x in (Path(study.home) / "rounds.jsonl").read_text().splitlines()]
    for way in ("up", "down"):
        total = sum(note.get(way, 0) for line in lines for note in line["silos"].values())
        assert report["bytes"][way] == total > 0
        by_language = sum(row["traffic"][way] for row in report["languages"].values())
        assert by_language == total
    assert report["bytes"]["dense_up"] / report["bytes"]["up"] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize(
    ("schedule", "strategy"),
    [("sync(sample=1)", "fedavg()"), ("buffered(size=1)", "fedavg()"), ("sync()", "rolora()")],
)
def test_updates_in_float32_are_as_large_as_the_same_sent_dense_whoever_is_asked(
    schedule, strategy, small, simulate, tmp_path
):
    few = {"schedule": schedule, "strategy": strategy, "codec": "float32()", "rounds": 3}
    counted = simulate(small(tmp_path / "run", **few))["bytes"]
    assert counted["dense_up"] == pytest.approx(counted["up"], rel=0.03)


def test_the_study_file_of_a_run_is_the_study_and_names_no_folder(finished):
    study, _ = finished
    text = (Path(study.home) / "study.toml").read_text()
    again = config.read(Path(study.home) / "study.toml")
    assert again == study.model_copy(update={"home": ""})
    assert study.home not in text


def test_adapters_fit_the_base_at_the_rank_of_the_study(finished):
    study, _ = finished
    held = json.loads((Path(study.home) / "adapter" / "as" / "adapter_config.json").read_text())
    assert (held["r"], held["lora_alpha"]) == (2, 32.0)
    assert held["base_model_name_or_path"] == "builtin:tiny"
    assert Model(rank=2) == Study.model_validate(study.model_dump()).model
