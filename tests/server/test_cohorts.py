"""Cohorts in a simulated study: what one at a time gives, the same bits whoever answers first, a word in the report."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_client import bases, shapes
from fl_client.app import app as client
from fl_client.cohort import size
from fl_client.cohort.layers import Unfit
from fl_client.cohort.rounds import FAILED
from fl_client.cohort.together import LAYERS, ROOM
from fl_client.config import Study, flat, from_flat
from fl_server import record
from fl_server.app import app as server
from fl_server.report import html as page
from fl_server.run import RoundFailed
from fl_server.simulation import grid
from fl_server.simulation.grid import lots

PLAIN = {"model__rows": "none", "codec": "float32()", "train__lr": 1e-3}
FAILURES = [(MemoryError(), ROOM), (Unfit("a router"), LAYERS), (ZeroDivisionError(), FAILED)]


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """Return a function that runs a small study in cohorts and returns its report and its adapters."""

    @cache
    def run(cohort, order=None, processes=1, patched="", **changes):
        folder = tmp_path_factory.mktemp("run") / "run"
        study = small(folder, **(PLAIN | changes))
        record.claim(folder, study, resume=False)
        grid.run(
            server, client, study.simulation.silos, flat(study), order, processes, cohort=cohort
        )
        report = json.loads((folder / "report.json").read_text())
        return report, load(folder)

    return run


def load(folder: Path):
    files = sorted((folder / "adapter").glob("*/adapter_model.safetensors"))
    return {f"{f.parent.name}/{n}": x for f in files for n, x in load_file(f).items()}


def close(together, apart):
    """Compare all but one number in a thousand: AdamW makes a whole step of a gradient that is only rounding."""
    assert together.keys() == apart.keys()
    off = np.concatenate([np.abs(together[n] - x).ravel() for n, x in apart.items()])
    assert np.quantile(off, 0.999) < 1e-5 and off.max() < 1e-3


@pytest.fixture(scope="module")
def cohort(run):
    return run(3)


def test_a_study_in_cohorts_is_the_study_one_silo_at_a_time(run, cohort):
    report, together = cohort
    alone, apart = run(0)
    close(together, apart)
    assert report["cohort"] == {"most": 2, "apart": {}}  # four silos in even lots of at most three
    assert alone["cohort"] == {"most": 1, "apart": {}}
    assert report["adapter_sha256"] != alone["adapter_sha256"]  # or nothing was tested


@pytest.mark.parametrize("order", [None, 3])
def test_a_study_in_cohorts_has_the_same_bits_whoever_answers_first(order, run, cohort):
    assert run(3, order)[0]["adapter_sha256"] == cohort[0]["adapter_sha256"]


@pytest.mark.slow
def test_a_study_in_cohorts_has_the_same_bits_in_several_processes(run, cohort):
    assert run(3, processes=2)[0]["adapter_sha256"] == cohort[0]["adapter_sha256"]


def test_silos_of_two_ranks_train_in_two_cohorts(run):
    mixed = {"strategy": "hetlora()", "simulation__ranks": "1,2", "rounds": 1}
    (report, together), (_, apart) = run(4, **mixed), run(0, **mixed)
    assert report["cohort"] == {"most": 2, "apart": {}}
    close(together, apart)


def test_silos_on_a_quantized_base_train_one_at_a_time_and_the_report_says_why(run):
    half = {"model__quantization": "bfloat16", "rounds": 1}
    (report, _), (alone, _) = run(4, **half), run(0, **half)
    assert report["cohort"] == {"most": 1, "apart": {"the base is quantized": 4}}
    assert report["adapter_sha256"] == alone["adapter_sha256"]
    assert "4 times one by one because the base is quantized" in page(report)


@pytest.mark.parametrize(("error", "reason"), FAILURES)
def test_a_cohort_that_cannot_be_trained_is_trained_one_at_a_time(error, reason, run, monkeypatch):
    def fails(*_):
        raise error

    alone, _ = run(0, rounds=1)
    monkeypatch.setattr("fl_client.cohort.train.fit", fails)
    report, _ = run(4, patched=reason, rounds=1)
    assert report["cohort"] == {"most": 1, "apart": {reason: 4}}
    assert report["adapter_sha256"] == alone["adapter_sha256"]


@pytest.fixture(scope="module")
def beyond(tmp_path_factory):
    """Return what is changed of a study so that the last of three silos has a token beyond the base's table."""
    folder = tmp_path_factory.mktemp("beyond")
    base, data = folder / "base", folder / "data"
    shutil.copytree(bases.locate("builtin:tiny")[0], base)
    held, config = (json.loads((base / f"{n}.json").read_text()) for n in ("tokenizer", "config"))
    more = {"id": config["vocab_size"], "content": "ZZQ"}
    held["added_tokens"].append(held["added_tokens"][0] | more)
    (base / "tokenizer.json").write_text(json.dumps(held))
    data.mkdir()
    (data / "text.jsonl").write_text("".join(line(silo, n) for silo in range(3) for n in range(40)))
    own = {"model__base": str(base), "simulation__data": str(data), "simulation__silos": 3}
    own |= {"simulation__languages": "ne", "simulation__partition": "by_source()"}
    return own | {"schedule": "sync(quorum=0.5)"}


def line(silo, number):
    text = f"काठमाडौं उपत्यका आज {silo} {number}{' ZZQ' * (silo == 2)}"
    split = "train" if number % 4 else "test"
    told = {"lang": "ne", "source": f"s{silo}", "split": split, "doc": f"{silo}-{number}"}
    return json.dumps(told | {"text": text}) + "\n"


def test_only_the_silo_that_fails_in_a_cohort_is_refused_and_all_is_as_one_at_a_time(run, beyond):
    rail = {"alone__enabled": True, "alone__rates": "0.005", "alone__adapt": False}
    changes = beyond | rail | {"codec": "topk(0.1)"}  # which remembers, as the optimizer does
    (report, _), (apart, _) = run(3, **changes), run(0, **changes)
    assert report["cohort"] == {"most": 1, "apart": {FAILED: 4}}  # two silos in two rounds
    assert report["adapter_sha256"] == apart["adapter_sha256"]
    assert report["silo_scores"] == apart["silo_scores"]
    scored = report["silo_scores"].values()
    assert [silo["alone"] is None for silo in scored] == [False, False, True]


def test_where_the_work_of_a_cohort_cannot_begin_at_all_silos_are_refused(run, monkeypatch):
    def fails(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("fl_client.work.together", fails)
    with pytest.raises(RoundFailed, match="the silo failed"):
        run(4, patched="together", rounds=1)


class Waiting:
    """A message as far as a grid looks at it before it is answered."""

    def __init__(self, node: int, kind: str) -> None:
        self.metadata = self
        self.dst_node_id, self.message_type = node, kind


def test_lots_are_even_and_the_same_in_whatever_order_messages_come():
    keyed = {f"m{node}": Waiting(node, "train") for node in (5, 1, 4, 2, 3)}
    assert lots(keyed, 4) == [["m1", "m2"], ["m3", "m4", "m5"]]
    assert lots(dict(reversed(keyed.items())), 4) == lots(keyed, 4)
    assert lots(keyed, 0) == [[key] for key in keyed]
    alone = {"a": Waiting(1, "train.alone"), "b": Waiting(2, "train.alone")}
    assert lots(alone, 8) == [["a", "b"]]
    scored = {"s": Waiting(1, "evaluate"), "t": Waiting(2, "train"), "u": Waiting(3, "train")}
    assert lots(scored, 8) == [["t", "u"], ["s"]]


def test_a_cohort_has_about_a_thousand_tokens_and_every_core_has_a_cohort():
    study = Study.model_validate({"train": {"batch_size": 1, "length": 128}})
    assert size.chosen(study, silos=64, cores=2) == 8
    assert size.chosen(study, silos=8, cores=2) == 4
    assert size.chosen(study, silos=8, cores=16) == 1
    assert size.chosen(Study(), silos=64, cores=1) == 1
    small = size.chosen(study, silos=10**6, cores=1, free=10**9)
    assert 1 <= small < size.chosen(study, silos=10**6, cores=1, free=10**10) < 10**6


def test_on_a_gpu_the_base_and_each_silo_s_token_rows_count():
    study = from_flat({"train.length": 64, "train.batch_size": 1, "simulation.languages": "as,ne"})
    plain = from_flat({"train.length": 64, "train.batch_size": 1, "model.rows": "none"})
    rows, none = (size.chosen(one, silos=10**6, cores=1, free=10**9) for one in (study, plain))
    assert 1 <= rows < none
    base = shapes.read("builtin:tiny").parameters * 4
    assert size.chosen(plain, silos=10**6, cores=1, free=2 * base) == 1


def test_on_a_gpu_silos_train_one_at_a_time_where_nothing_says_how_large_the_base_is(tmp_path):
    base = tmp_path / "some.gguf"
    base.write_bytes(b"GGUF")
    study = from_flat({"model.base": str(base), "train.batch_size": 1})
    assert size.chosen(study, silos=64, cores=2, free=10**10) == 1
    assert size.chosen(study, silos=64, cores=2) > 1
